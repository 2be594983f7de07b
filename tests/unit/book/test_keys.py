"""Does a notebook's key follow the code it really uses, and say what changed?"""

import nbformat.v4 as v4
import pytest

from clipmerge.book import keys
from clipmerge.study import profiles


def notebook(source):
    return v4.new_notebook(cells=[v4.new_code_cell(source)])


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A toy package: alpha imports beta absolutely, gamma relatively; delta stands alone."""
    package = tmp_path / "lib" / "clipmerge"
    (package / "sub").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "alpha.py": "from clipmerge.sub import beta\nfrom .sub.gamma import thing\n",
        "delta.py": "x = 1\n",
        "sub/__init__.py": "",
        "sub/beta.py": "y = 2\n",
        "sub/gamma.py": "def thing():\n    import clipmerge.sub.inner\n",
        "sub/inner.py": "z = 3\n",
    }.items():
        (package / name).write_text(text)
    monkeypatch.setattr(keys, "PACKAGE", package)
    monkeypatch.setattr(keys, "LIB", package.parent)
    return package


def names(library, source):
    return [path.relative_to(library).as_posix() for path in keys.library([source])]


def test_imports_are_followed_wherever_they_stand(library):
    expected = ["__init__.py", "alpha.py", "sub/__init__.py", "sub/beta.py", "sub/gamma.py", "sub/inner.py"]
    assert names(library, "%matplotlib inline\nfrom clipmerge import alpha") == expected
    assert names(library, "import clipmerge.delta as d, numpy") == ["__init__.py", "delta.py"]
    assert names(library, "import numpy") == []


def test_parts_name_what_changed(library):
    smoke, other = profiles.load("smoke"), profiles.load("laptop")
    before = keys.parts(notebook("from clipmerge import alpha"), smoke, 0, library)
    (library / "delta.py").write_text("x = 100\n")  # not imported
    (library / "sub" / "inner.py").write_text("z = 3  # a comment\n")
    assert keys.changed(before, keys.parts(notebook("from clipmerge import alpha"), smoke, 0, library)) == []
    (library / "sub" / "inner.py").write_text("z = 40\n")  # no size it had before: clocks of file systems are coarse
    after = keys.parts(notebook("from clipmerge import alpha"), smoke, 0, library)
    assert keys.changed(before, after) == ["lib/clipmerge/sub/inner.py"]
    assert keys.changed(after, keys.parts(notebook("from clipmerge import alpha"), smoke, 1, library)) == ["seed"]
    assert "profile name" in keys.changed(after, keys.parts(notebook("from clipmerge import alpha"), other, 0, library))
    assert keys.changed(after, keys.parts(notebook("import clipmerge.alpha"), smoke, 0, library)) == ["code cells"]
