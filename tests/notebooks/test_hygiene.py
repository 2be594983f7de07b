"""The committed notebooks keep the house rules, and the committed figures have a notebook each."""

import re

import pytest

from clipmerge import paths
from clipmerge.book import explore, notebooks

from . import hygiene


@pytest.mark.parametrize("check", hygiene.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", notebooks.every(), ids=lambda path: path.stem)
def test_notebook(path, check):
    assert list(check(path, notebooks.read(path))) == []


def test_notebooks_are_numbered_and_alone():
    """Beside them is the one page that they open: JupyterLab serves what lies below the folder it was started in."""
    known = rf"\d\d_\w+\.ipynb|{re.escape(explore.page().name)}"
    strangers = [path.name for path in paths.notebooks().iterdir() if not re.fullmatch(known, path.name)]
    assert [name for name in strangers if not name.startswith(".")] == []


def test_no_artefact_is_declared_twice():
    declared = [id for path in notebooks.every() for id in notebooks.outputs(notebooks.read(path))]
    assert len(declared) == len(set(declared))


def test_every_committed_figure_has_a_notebook():
    assert hygiene.orphans(paths.figures("laptop")) == []
