"""Every hygiene check passes a good notebook and fails a bad one: a check that cannot fail checks nothing."""

import nbformat
import nbformat.v4 as v4
import pytest

from clipmerge import paths
from clipmerge.book import notebooks

from . import hygiene


def good():
    cells = [v4.new_markdown_cell("# Good")]
    cells.append(
        v4.new_code_cell('profile = "laptop"\nseed = 0\nout = ""', metadata={"tags": ["parameters"]}, execution_count=1)
    )
    for count in (2, 3, 4):
        output = v4.new_output("stream", name="stdout", text=f"{count}\n")
        tags = {"tags": [hygiene.CHECKED]}
        cells.append(v4.new_code_cell(f"print({count})", metadata=tags, execution_count=count, outputs=[output]))
    nb = v4.new_notebook(cells=cells, metadata={"clipmerge": {"outputs": ["toy_table"]}})
    return notebooks.normalise(nb)


@pytest.fixture
def problems(tmp_path, monkeypatch):
    """Write a notebook and say which checks find something."""
    monkeypatch.setattr(paths, "figures", lambda profile: tmp_path)
    for kind in ("csv", "json"):
        (tmp_path / f"toy_table.{kind}").write_text("{}")

    def find(nb):
        path = tmp_path / "10_toy.ipynb"
        nbformat.write(nb, path)
        return {check.__name__: found for check in hygiene.CHECKS if (found := list(check(path, notebooks.read(path))))}

    return find


def test_a_good_notebook_has_no_problems(problems):
    assert problems(good()) == {}


def no_parameters(nb):
    nb.cells[1].source = "seed = 0"


def checks_nothing(nb):
    nb.cells[2].outputs = []


def checks_unexecuted(nb):
    nb.cells[4].outputs, nb.cells[4].execution_count = [], None


def checks_only_a_picture(nb):
    nb.cells[2].outputs = [v4.new_output("display_data", {"image/png": "aGk="})]


def checks_too_little(nb):
    del nb.cells[2].metadata["tags"]


def stores_an_error(nb):
    nb.cells[1].outputs = [v4.new_output("error", ename="ValueError", evalue="", traceback=[])]


def has_a_class(nb):
    nb.cells[2].source = "%time 1\nif True:\n    class Model: ..."


def reads_a_relative_path(nb):
    nb.cells[2].source = 'open("../data.bin")'


def names_a_file_here(nb):
    nb.cells[2].source = 'open("results/table.csv")'


def shows_a_home(nb):
    nb.cells[2].outputs[0].text = "/home/someone/cache"


def shows_a_token(nb):
    nb.cells[0].source = "# hf_" + "a" * 30


def draws_in_the_open(nb):
    nb.cells[2].source = "fig, ax = plt.subplots()"


def folds_for_the_site_alone(nb):
    nb.cells[2].metadata["tags"] = [hygiene.CHECKED, hygiene.HIDDEN]


def shows_a_half_figure(nb):
    nb.cells[2].source, nb.cells[3].source = "fig = draw()", "fig.suptitle('whole')\nfig"


def shows_a_picture_twice(nb):
    for cell in nb.cells[2:4]:
        cell.outputs.append(v4.new_output("display_data", {"image/png": "aGk="}))


def has_a_long_cell(nb):
    nb.cells[2].source = "x = 1\n" * 16


def has_many_cells(nb):
    nb.cells += [v4.new_markdown_cell(str(i), id=f"many{i}") for i in range(40)]


def is_heavy(nb):
    nb.cells[1].outputs = [v4.new_output("display_data", {"image/png": "a" * 1_000_000})]


def was_stored_by_hand(nb):
    nb.metadata["papermill"] = {}


def declares_too_much(nb):
    nb.metadata.clipmerge.outputs = ["toy_table", "condu_table1"]


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (no_parameters, "has_parameters"),
        (checks_nothing, "compares"),
        (checks_unexecuted, "compares"),
        (checks_only_a_picture, "compares"),
        (checks_too_little, "compares"),
        (stores_an_error, "has_run_cleanly"),
        (has_a_class, "defines_no_class"),
        (reads_a_relative_path, "names_no_place"),
        (names_a_file_here, "names_no_place"),
        (shows_a_home, "names_no_place"),
        (shows_a_token, "names_no_place"),
        (draws_in_the_open, "folds_plumbing"),
        (folds_for_the_site_alone, "folds_plumbing"),
        (shows_a_half_figure, "shows_whole_figures"),
        (shows_a_picture_twice, "shows_whole_figures"),
        (has_a_long_cell, "is_small"),
        (has_many_cells, "is_small"),
        (is_heavy, "is_small"),
        (was_stored_by_hand, "is_normal"),
        (declares_too_much, "outputs_exist"),
    ],
)
def test_each_check_can_fail(problems, damage, check):
    nb = good()
    damage(nb)
    assert set(problems(nb)) == {check}


def test_every_check_was_seen_to_fail():
    marks = test_each_check_can_fail.pytestmark[0].args[1]
    assert {check for _, check in marks} == {check.__name__ for check in hygiene.CHECKS}


def test_orphans_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "notebooks", lambda: tmp_path)
    nbformat.write(good(), tmp_path / "10_toy.ipynb")
    for name in ("toy_table", "left_over", "bench_merge"):  # the last is made by a command
        (tmp_path / f"{name}.json").write_text("{}")
    assert hygiene.orphans(tmp_path) == ["left_over"]
