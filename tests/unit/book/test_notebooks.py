"""Normal form, navigation, cost box and storing of outputs, on toy notebooks."""

import json
from copy import deepcopy

import nbformat
import nbformat.v4 as v4
import pytest

from clipmerge import paths
from clipmerge.book import notebooks
from clipmerge.errors import BadInput

PARAMETERS = 'profile = "laptop"\nseed = 0\nout = ""'


def toy(title="Toy", code="print(1)"):
    cells = [
        v4.new_markdown_cell(f"# {title}"),
        v4.new_markdown_cell("", metadata={"tags": ["navigation"]}),
        v4.new_markdown_cell("", metadata={"tags": ["cost"]}),
        v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        v4.new_code_cell(code),
    ]
    return v4.new_notebook(cells=cells, metadata={"clipmerge": {"outputs": ["toy_table"]}})


def executed(source):
    """As papermill leaves it: injected parameters, run metadata, stderr, widgets, addresses, gaps in the counts."""
    nb = deepcopy(source)
    nb.metadata["papermill"] = {"duration": 3.2}
    nb.metadata["kernelspec"] = {"name": "other", "display_name": "Other", "language": "python"}
    nb.cells.insert(4, v4.new_code_cell('profile = "smoke"', metadata={"tags": ["injected-parameters"]}))
    for count, cell in enumerate((cell for cell in nb.cells if cell.cell_type == "code"), start=1):
        cell.metadata["papermill"] = {"start_time": "2026-01-01"}
        cell.execution_count = count
    nb.cells[-1].outputs = [
        v4.new_output("stream", name="stdout", text="1\n"),
        v4.new_output("stream", name="stderr", text="loading…"),
        v4.new_output("display_data", {notebooks.WIDGET: {}, "text/plain": "bar"}),
        v4.new_output("display_data", {"image/png": "aGk=", "text/plain": "<Figure size 640x480>"}, metadata={"x": 1}),
        v4.new_output("execute_result", {"text/plain": "<Styler at 0x7f54ab9410>"}, execution_count=3),
    ]
    return nb


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Two notebooks on disk with executed copies and records."""
    monkeypatch.setenv("CLIPMERGE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "notebooks", lambda: tmp_path)
    folder = paths.cache("executed", "laptop")
    folder.mkdir(parents=True)
    for name, title in (("10_first", "First"), ("20_second", "Second")):
        nb = toy(title)
        nbformat.write(nb, tmp_path / f"{name}.ipynb")
        nbformat.write(executed(nb), folder / f"{name}.ipynb")
        record = {"profile": "laptop", "machine": "2 cores, cpu", "workers": 2, "own_seconds": 192.6, "steps": {}}
        record |= {"peak_mb": 812, "notebook_mb": 700}
        (folder / f"{name}.json").write_text(json.dumps(record))
    return tmp_path


def test_normal_form_keeps_what_readers_see_and_is_final():
    source = toy()
    nb = notebooks.normalise(executed(source))
    assert [cell.id for cell in nb.cells] == [cell.id for cell in source.cells]
    assert [cell.execution_count for cell in notebooks.code_cells(nb)] == [1, 2]
    assert nb.metadata.kernelspec.name == "python3" and nb.metadata.clipmerge.outputs == ["toy_table"]
    assert "papermill" not in json.dumps(nb) and "loading" not in json.dumps(nb)
    text, picture, value = nb.cells[-1].outputs
    assert text.text == "1\n" and list(picture.data) == ["image/png"] and picture.metadata == {}
    assert value.data["text/plain"] == "<Styler>" and value.execution_count == 2
    assert notebooks.normalise(nb) == nb
    nbformat.validate(nb)


def test_where_a_kernel_cuts_what_is_printed_is_chance():
    def printed(*pieces):
        cell = v4.new_code_cell("print", id="a", outputs=[v4.new_output("stream", text=piece) for piece in pieces])
        cell.outputs.insert(1, v4.new_output("stream", name="stderr", text="a warning"))
        cell.outputs.append(v4.new_output("display_data", {"text/plain": "x"}))
        return notebooks.normalise(v4.new_notebook(cells=[cell]))

    assert printed("one\nt", "wo\n") == printed("one\ntwo\n")
    assert [output.output_type for output in printed("a", "b").cells[0].outputs] == ["stream", "display_data"]


def test_missing_ids_follow_from_position_and_source():
    first, second = toy(), toy()
    for nb in (first, second):
        for cell in nb.cells:
            del cell["id"]
    ids = [cell.id for cell in notebooks.normalise(first).cells]
    assert ids == [cell.id for cell in notebooks.normalise(second).cells] and len(set(ids)) == len(ids)


def test_refresh_stores_outputs_links_and_costs_once(book):
    prose = notebooks.read(book / "20_second.ipynb")
    prose.cells.append(v4.new_markdown_cell("New prose, written after the run."))
    nbformat.write(prose, book / "20_second.ipynb")
    assert notebooks.refresh() == ["10_first", "20_second"]
    nb = notebooks.read(book / "20_second.ipynb")
    assert nb.cells[1].source == "[← First](10_first.ipynb)"
    assert "3.2 minutes from an empty cache, 812 MB" in nb.cells[2].source
    assert nb.cells[4].outputs[0].text == "1\n" and nb.cells[-1].source.startswith("New prose")
    assert notebooks.read(book / "10_first.ipynb").cells[1].source == "[Second →](20_second.ipynb)"
    assert notebooks.refresh() == []


def test_refresh_refuses_outputs_of_other_code(book):
    nbformat.write(toy("First", code="print(2)"), book / "10_first.ipynb")
    before = (book / "10_first.ipynb").read_bytes()
    with pytest.raises(BadInput, match="10_first.ipynb: expected the code that was executed"):
        notebooks.refresh()
    paths.cache("executed", "laptop", "10_first.json").unlink()
    with pytest.raises(BadInput, match="10_first.ipynb: expected an executed copy, found none"):
        notebooks.refresh()
    assert (book / "10_first.ipynb").read_bytes() == before


def test_maker_is_the_notebook_that_declares(book):
    assert notebooks.maker("toy_table") == "10_first" and notebooks.maker("condu_table1") == ""


def test_damaged_notebook_is_named(tmp_path):
    (tmp_path / "10_bad.ipynb").write_text("{")
    with pytest.raises(BadInput, match="10_bad.ipynb: expected a notebook"):
        notebooks.read(tmp_path / "10_bad.ipynb")


def test_a_block_stands_between_its_marks():
    page = notebooks.between("before\n<!-- cost -->\nold\n<!-- /cost -->\nafter", "cost", "new")
    assert page == "before\n<!-- cost -->\nnew\n<!-- /cost -->\nafter"
    assert notebooks.between(page, "cost", "new") == page
    assert notebooks.between("no marks", "cost", "new") == "no marks"
