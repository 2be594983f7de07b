"""Does a notebook's key follow the code it really uses, and say what changed?"""

import nbformat.v4 as v4
import pytest

from clipmerge.book import keys
from clipmerge.study import profiles
from clipmerge.study.cache import codehash, syntax


def notebook(source):
    return v4.new_notebook(cells=[v4.new_code_cell(source)])


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A toy package: alpha imports beta absolutely, gamma relatively; delta stands alone."""
    package = tmp_path / "lib" / "clipmerge"
    (package / "sub").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "alpha.py": "from clipmerge.sub import beta\nfrom .sub.gamma import thing\n\nrun = lambda: beta.y + thing()\n",
        "delta.py": "x = 1\n",
        "sub/__init__.py": "",
        "sub/beta.py": "y = 2\n",
        "sub/gamma.py": "def thing():\n    import clipmerge.sub.inner\n    return clipmerge.sub.inner.z\n",
        "sub/inner.py": "z = 3\n",
    }.items():
        (package / name).write_text(text)
    monkeypatch.setattr(syntax, "PACKAGE", package)
    forget(monkeypatch)
    return package


def forget(monkeypatch):
    """What a new process would not know."""
    monkeypatch.setattr(syntax, "_known", {})
    codehash._module_of.cache_clear()


def names(source):
    return [name.removeprefix("clipmerge.") for name in codehash.library([source])]


def test_what_cells_reach_is_followed_wherever_it_stands(library):
    assert names("from clipmerge import alpha\nalpha.run()") == ["alpha", "sub.beta", "sub.gamma", "sub.inner"]
    assert names("import clipmerge.delta as d, numpy\nd.x") == ["delta"]
    assert names("import numpy") == names("from clipmerge import alpha") == []


def test_what_cells_reach_is_found_without_importing_anything(monkeypatch):
    monkeypatch.setattr(syntax, "find_spec", lambda name: pytest.fail(f"looked for {name} by import"))
    forget(monkeypatch)
    found = codehash.library(["from clipmerge.study import mtil\nmtil.run(profile)"])
    assert {"clipmerge.study.condu.protocol", "clipmerge.study.baselines.zscl", "clipmerge.clip.towers"} <= found.keys()
    assert not {"clipmerge.study.time.loop", "clipmerge.study.time.streams"} & found.keys()


def test_parts_name_what_changed(library, monkeypatch):
    smoke, other = profiles.load("smoke"), profiles.load("laptop")
    cell = "%matplotlib inline\nfrom clipmerge import alpha\nalpha.run()"

    def parts(source=cell, profile=smoke, seed=0):
        forget(monkeypatch)
        return keys.parts(notebook(source), profile, seed, library)

    before = parts()
    (library / "delta.py").write_text("x = 100\n")  # not reached
    (library / "sub" / "inner.py").write_text("z = 3  # a comment\nother = 5\n")
    assert keys.changed(before, parts()) == []
    (library / "sub" / "inner.py").write_text("z = 4\n")
    after = parts()
    assert keys.changed(before, after) == ["clipmerge.sub.inner"]
    assert keys.changed(after, parts(seed=1)) == ["seed"]
    assert "profile name" in keys.changed(after, parts(profile=other))
    assert keys.changed(after, parts(cell + "  # why not")) == ["code cells"]
