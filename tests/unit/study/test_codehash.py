"""The digest of a step's code: moved by what runs, not by what is said about it."""

import importlib
import sys
import textwrap

import pytest

from clipmerge.errors import BadInput
from clipmerge.study.cache import codehash

FILES = {
    "__init__": "",
    "step": """
        '''Docstring.'''
        from . import near
        import {lab}.plain
        from {lab}.front import shown

        def beside(out):
            return shown

        def run(out, *, config, inputs, seed):
            '''Another docstring.'''
            from {lab}.late import value  # found although it stands inside a function
            return near.RATE * value + shown() + ask("two")

        from {lab}.desk import ask
        """,
    "near": "from {lab}.far import RATE\n\ndef unused(): return 1",
    "far": "RATE = 1\nOTHER = 2",
    "late": "value = 2",
    "plain": "import json",
    "front": "from {lab}.behind import shown, hidden",
    "behind": "def shown(): return 1\n\ndef hidden(): return 2",
    "desk": """
        from {lab} import counter
        from {lab}.entries import anything

        def ask(name):
            return counter.REGISTRY[name]()
        """,
    "counter": """
        REGISTRY = {}

        def enter(fn):
            REGISTRY[fn.__name__] = fn
            return fn
        """,
    "entries": """
        from {lab}.counter import enter
        from {lab} import far

        anything = 1

        @enter
        def two():
            return far.OTHER

        def neither():
            return 3
        """,
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
    write.digests = lambda: codehash.digests(importlib.import_module(f"{name}.step").run)
    write.name = name
    yield write
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def test_closure_holds_what_is_reached(lab):
    reached = {name.rpartition(".")[2] for name in lab.digests()}
    assert reached == {"step", "far", "late", "behind", "desk", "counter", "entries"}


def moved(lab, module, old, new):
    """The modules whose digest an edit moves."""
    before = lab.digests()
    assert old in FILES[module]
    lab(module, FILES[module].replace(old, new))
    after = lab.digests()
    return {name.rpartition(".")[2] for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("step", "* value", "- value"),
        ("far", "RATE = 1", "RATE = 7"),  # through a module that only hands it on
        ("late", "2", "3"),  # imported inside the function
        ("behind", "return 1", "return 5"),  # through a front page
        ("desk", "REGISTRY[name]", "REGISTRY[name.lower()]"),
        ("counter", "{}", "dict()"),
        ("far", "OTHER = 2", "OTHER = 3"),  # by a definition that is found in a registry, by name
        ("entries", "far.OTHER", "far.OTHER + 1"),
    ],
)
def test_reached_code_moves_its_own_digest_only(lab, module, old, new):
    assert moved(lab, module, old, new) == {module}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("step", "return shown\n", "return 3\n"),  # stands in the same file, and is not called
        ("near", "return 1", "return 2"),
        ("behind", "return 2", "return 3"),
        ("entries", "return 3", "return 4"),
        ("plain", "import json", "import json\nx = 1"),
    ],
)
def test_what_stands_beside_does_not_count(lab, module, old, new):
    assert moved(lab, module, old, new) == set()


def test_what_runs_on_import_counts(lab):
    before = lab.digests()
    lab("plain", "import json\njson.dumps(1)")
    assert {name.rpartition(".")[2] for name in lab.digests().keys() - before.keys()} == {"plain"}


def test_a_module_that_is_handed_around_counts_whole(lab):
    lab("step", FILES["step"].replace("near.RATE", "vars(near)['RATE']"))
    assert "near" in {name.rpartition(".")[2] for name in lab.digests()}


def test_words_do_not_count(lab):
    before = lab.digests()
    lab("step", FILES["step"].replace("Another docstring.", "Better words.").replace("# found", "# discovered"))
    lab("far", "'''What it is.'''\n\n\nRATE   =   1  # per cent\nOTHER = 2\n")
    assert lab.digests() == before


def test_unreached_code_does_not_count(lab):
    before = lab.digests()
    lab("stranger", "RATE = 4")
    assert lab.digests() == before


def test_the_code_in_memory_counts(lab, tmp_path):
    """An edit without a reload is not what runs, so it must not change the key."""
    before = lab.digests()
    (tmp_path / lab.name / "far.py").write_text("RATE = 99\nOTHER = 2")
    assert lab.digests() == before


def test_plumbing_and_other_packages_stay_out():
    reached = codehash.digests(codehash.digests)
    assert reached == {}  # `codehash` itself is plumbing and imports no room
    from clipmerge.study import metrics

    assert list(codehash.digests(metrics.transfer)) == ["clipmerge.study.metrics"]


def test_compiled_loops_count_although_they_come_late():
    from clipmerge.merge import compiled

    loops = {name for name, value in vars(compiled).items() if hasattr(value, "py_func") and not name.startswith("_")}
    for name in sorted(loops):
        met = codehash.met([f"from clipmerge.merge import loops\nloops.{name}"])
        assert ("clipmerge.merge.compiled", name) in met, name


def test_a_function_without_a_module_is_refused():
    with pytest.raises(BadInput, match="expected one defined at the top level of a module, found .*<lambda>"):
        codehash.digests(lambda: None)
