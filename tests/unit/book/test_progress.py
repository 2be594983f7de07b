"""progress() passes everything through, and shows it only where somebody looks."""

import sys

import pytest

from clipmerge.book.progress import place, progress


@pytest.fixture
def nobody(monkeypatch):
    for name in ("CI", "CLIPMERGE_QUIET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


def test_silent_under_papermill_and_ci(nobody, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    for name in ("CI", "CLIPMERGE_QUIET"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert place() == "silent"
            assert list(progress(range(20), "steps")) == list(range(20))
    assert capsys.readouterr() == ("", "")


def test_a_live_notebook_gets_a_line_every_tenth(nobody, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert list(progress((i for i in range(40)), "experts", total=40)) == list(range(40))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("experts: 4 of 40 (") and lines[-1].startswith("experts: 40 of 40 (")


def test_a_terminal_gets_a_bar(nobody, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress([1, 2, 3], "tasks")) == [1, 2, 3]
    assert "tasks" in capsys.readouterr().err


def test_redirected_output_gets_nothing(nobody, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert list(progress([1, 2, 3], "tasks")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")
