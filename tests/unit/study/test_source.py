"""The digest of a step's code: moved by what runs, not by what is said about it."""

import importlib
import sys
import textwrap

import pytest

from clipmerge.errors import BadInput
from clipmerge.study import source

FILES = {
    "__init__": "",
    "step": """
        '''Docstring.'''
        from . import near
        import {lab}.plain

        def run(out, *, config, inputs, seed):
            '''Another docstring.'''
            from {lab}.late import value  # found although it stands inside a function
            return near.RATE * value
        """,
    "near": "from {lab}.far import RATE",
    "far": "RATE = 1",
    "late": "value = 2",
    "plain": "import json",
    "stranger": "RATE = 3",
}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A package on disk with a `write` of its own: write(module, text) edits a file and reloads what was loaded."""
    name = f"lab_{tmp_path.name}".replace("-", "_")
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(module, text):
        (folder / f"{module}.py").write_text(textwrap.dedent(text).replace("{lab}", name))
        full = f"{name}.{module}"
        if full in sys.modules:
            importlib.reload(sys.modules[full])

    for module, text in FILES.items():
        write(module, text)
    write.digests = lambda: source.digests(importlib.import_module(f"{name}.step").run)
    write.name = name
    yield write
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def test_closure_holds_what_is_reached(lab):
    reached = {name.rpartition(".")[2] for name in lab.digests()}
    assert reached == {"step", "near", "far", "late", "plain"}


@pytest.mark.parametrize("module", ["step", "near", "far", "late", "plain"])
def test_reached_code_moves_its_own_digest_only(lab, module):
    before = lab.digests()
    lab(module, FILES[module] + "\nx = 1" if module != "step" else FILES[module].replace("* value", "+ value"))
    after = lab.digests()
    assert {name for name in before if before[name] != after[name]} == {f"{lab.name}.{module}"}


def test_words_do_not_count(lab):
    before = lab.digests()
    lab("step", FILES["step"].replace("Another docstring.", "Better words.").replace("# found", "# discovered"))
    lab("far", "'''What it is.'''\n\n\nRATE   =   1  # per cent\n")
    assert lab.digests() == before


def test_unreached_code_does_not_count(lab):
    before = lab.digests()
    lab("stranger", "RATE = 4")
    assert lab.digests() == before


def test_the_code_in_memory_counts(lab, tmp_path):
    """An edit without a reload is not what runs, so it must not change the key."""
    before = lab.digests()
    (tmp_path / lab.name / "far.py").write_text("RATE = 99")
    assert lab.digests() == before


def test_plumbing_and_other_packages_stay_out():
    reached = source.digests(source.digests)
    assert reached == {}  # `source` itself is plumbing and imports no room
    from clipmerge.study import metrics

    assert list(source.digests(metrics.transfer)) == ["clipmerge.study.metrics"]


def test_a_function_without_a_module_is_refused():
    with pytest.raises(BadInput, match="expected one defined at the top level of a module, found .*<lambda>"):
        source.digests(lambda: None)
