"""Figures, tables and their records: byte-stable, checked, listed."""

import io
import json
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from clipmerge.book import Run, figures, tables
from clipmerge.errors import BadInput
from clipmerge.study import profiles, results
from clipmerge.study.cache import ledger


@pytest.fixture
def run(tmp_path):
    plt.switch_backend("agg")  # no window, whatever machine this is
    ledger.begin()  # as `setup` does
    facts = {"profile": "smoke", "seed": 0, "device": "cpu", "versions": {"torch": "x"}}
    return Run(profiles.load("smoke"), 0, tmp_path, "cpu", facts, time.perf_counter())


def rows(last=71.25):
    ours = [
        results.rows({"mean": last + seed}, method=method, metric="last", seed=seed, n=1000)
        for seed in (0, 1, 2)
        for method in ("condu-ft", "average")
    ]
    paper = results.rows({"mean": 86.0}, method="condu-ft", metric="last", seed=None, source="ConDU, Table 1")
    return pd.concat([*ours, paper], ignore_index=True)


def draw(height=1.0):
    with plt.rc_context(dict(figures.STYLE)):
        figure, axes = plt.subplots()
        axes.plot([0, 1, 2], [0, height, 1], label="ConDU", **figures.look("condu-ft"))
        axes.set(xlabel="session", ylabel="accuracy (%)")
        axes.legend()
    plt.close(figure)
    return figure


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_content_same_files_even_later(run, monkeypatch):
    figures.save(draw(), "toy_figure", rows(), run, note="A toy.")
    first = contents(run.out)
    assert set(first) == {"toy_figure.pdf", "toy_figure.png", "toy_figure.csv", "toy_figure.json", "INDEX.md"}
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 1e6)  # PDF and fonts must not tell the time
    object.__setattr__(run, "started", run.started - 600)  # ten minutes later
    monkeypatch.setattr(time, "process_time", lambda: 1e6)  # and as busy as could be
    assert run.cost()["minutes"] >= 10
    figures.save(draw(), "toy_figure", rows(), run, note="A toy.")
    assert contents(run.out) == first
    figures.save(draw(), "toy_figure", rows(last=71.3), run, note="A toy.")
    changed = {name for name, content in contents(run.out).items() if content != first[name]}
    assert changed == {"toy_figure.csv", "toy_figure.json"}
    assert json.loads((run.out / "toy_figure.json").read_text())["minutes"] >= 10
    figures.save(draw(height=2.0), "toy_figure", rows(last=71.3), run, note="A toy.")
    assert contents(run.out)["toy_figure.png"] != first["toy_figure.png"]


def test_record_and_csv_say_where_numbers_come_from(run):
    figures.save(draw(), "toy_figure", rows(), run, note="A toy.")
    record = json.loads((run.out / "toy_figure.json").read_text())
    assert (record["id"], record["seeds"], record["caption"]) == ("toy_figure", [0, 1, 2], "A toy.")
    assert record["versions"] == {"torch": "x"} and record["minutes"] >= 0 and record["peak_mb"] > 0
    table = pd.read_csv(run.out / "toy_figure.csv")
    assert tuple(table.columns) == results.COLUMNS
    assert table.value.tolist() == rows().value.tolist()
    assert table[table.source != "ours"].seed.isna().all()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda t: t.drop(columns="n"), "found none called n"),
        (lambda t: t.iloc[:0], "at least one row"),
        (lambda t: t.assign(value=np.nan), "finite numbers where source is ours"),
        (lambda t: t.assign(metric=""), "column metric"),
        (lambda t: pd.concat([t, t]), "found two for"),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_written(run, damage, said):
    with pytest.raises(BadInput, match="toy_figure: ") as error:
        figures.save(draw(), "toy_figure", damage(rows()), run)
    assert said in str(error.value) and contents(run.out) == {}


def test_a_figure_with_flaws_is_refused(run):
    figure = draw()
    figure.axes[0].set_xlabel("")
    with pytest.raises(BadInput, match="^toy_figure: expected a figure without flaws, found 'accuracy .*along x"):
        figures.save(figure, "toy_figure", rows(), run)
    assert contents(run.out) == {}


def test_ids_are_plain(run):
    with pytest.raises(BadInput, match="artefact id"):
        tables.save("../escape", rows(), run)


def test_methods_differ_by_more_than_colour():
    for looks in (figures.LOOKS, figures.looks(map(str, range(32)))):
        assert len({(look["marker"], look["linestyle"]) for look in looks.values()}) == len(looks)
    assert len(figures.PALETTE) == 8
    assert {look["color"] for look in figures.LOOKS.values()} <= set(figures.PALETTE)
    with pytest.raises(BadInput, match="condu-ft.*found 'condu'"):
        figures.look("condu")


def test_pictures_are_opaque_and_readable():
    picture = plt.imread(io.BytesIO(figures.render(draw(), "png")))
    assert (picture[..., 3] == 1).all() and (picture[0, 0, :3] == 1).all()
    wanted = ("labelsize", "titlesize", "fontsize")
    sizes = {name: size for name, size in figures.STYLE.items() if name.endswith(wanted)}
    assert len(sizes) == 5 and min(sizes.values()) >= 8 and figures.STYLE["font.size"] >= 8


def test_table_puts_ours_beside_reported(run):
    styled = tables.save("toy_table", rows(), run, note="Toy.")
    text = (run.out / "toy_table.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text if line]
    assert cells[0] == ["", "last (ours)", "last (ConDU, Table 1)"]
    assert cells[2:] == [["condu-ft", "72.2 ± 1.0", "86.0"], ["average", "72.2 ± 1.0", "–"]]
    html = styled.to_html()
    assert "Toy." in html and html == tables.show(tables.beside(rows()), "toy_table", "Toy.").to_html()
    index = (run.out / "INDEX.md").read_text()
    assert "## toy_table" in index and "72.2 ± 1.0" in index and "[csv](toy_table.csv)" in index


def test_table_refuses_to_average_over_what_it_does_not_show():
    two = pd.concat([rows(), rows().assign(task="digits")])
    with pytest.raises(BadInput, match="found several for"):
        tables.beside(two)


def test_formats():
    assert tables.mean_sd([71.0, 72.0, 73.0]) == "72.0 ± 1.0"
    assert tables.mean_sd([71.04]) == "71.0" and tables.mean_sd([float("nan")]) == "–"
    said = tables.caption("MTIL, Order I.", rows(), model="nano-s", data="Pocket-MTIL")
    assert said == "MTIL, Order I. Ours: nano-s on Pocket-MTIL, seeds 0, 1, 2, n = 1,000 test images."
