"""The house: rooms and families import one way, without circles; what is asked of every file."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import clipmerge
from clipmerge.study.cache import syntax

PACKAGE = Path(clipmerge.__file__).parent
ROOMS = ("merge", "clip", "study", "book", "bench")  # each may import those before it
FAMILIES = ("cache", "profiles", "experts", "condu", "baselines", "routing", "analysis", "time", "tuning", "claims")


def every() -> list[str]:
    """All modules of the library, by their full names."""
    names = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")]
    return sorted(".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names)


def imported(name: str) -> set[str]:
    """The modules of the library that one imports, on loading or inside a function; not the packages it lies in."""
    known = set(every())
    module = syntax.module(name)
    inside = (path for definition in module.definitions.values() for path in definition.imports.values())
    places = (path if ".".join(path) in known else path[:-1] for path in inside)  # a module, or a name in one
    found = {*module.imported, *map(".".join, places)} & known
    return {target for target in found if not f"{name}.".startswith(f"{target}.")}


def room(name: str) -> str:
    """The room of a module; files beside the rooms have none."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


@pytest.mark.parametrize("name", every())
def test_rooms_import_one_way(name):
    above = ROOMS[ROOMS.index(room(name)) + 1 :] if room(name) else ()
    assert [target for target in imported(name) if room(target) in above] == []


def test_modules_import_without_circles():
    graph = {name: imported(name) for name in every()}
    assert len([*TopologicalSorter(graph).static_order()]) == len(graph)  # raises CycleError otherwise


def test_families_have_front_pages():
    study = PACKAGE / "study"
    entries = [path for path in study.iterdir() if path.name not in ("__init__.py", "__pycache__")]
    assert len(entries) <= 13
    for family in FAMILIES:
        front = ast.parse((study / family / "__init__.py").read_text(encoding="utf8"))
        assert ast.get_docstring(front)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_and_functions_have_a_size(path):
    text = path.read_text(encoding="utf8")
    assert text.count("\n") <= 250
    long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 40
    ]
    assert long == []
