"""nbval does compare: a right notebook passes, a wrong stored output fails, pictures and stderr do not matter."""

import subprocess
import sys

import nbformat
import nbformat.v4 as v4
import pytest

from clipmerge import paths
from clipmerge.book import notebooks

from .hygiene import CHECKED

CODE = "import sys\nprint('noise', file=sys.stderr)\nprint(6 * 7)"


def store(path, text):
    output = v4.new_output("stream", name="stdout", text=text)
    cell = v4.new_code_cell(CODE, metadata={"tags": [CHECKED]}, execution_count=1, outputs=[output])
    nbformat.write(notebooks.normalise(v4.new_notebook(cells=[cell])), path)


@pytest.mark.parametrize(("text", "passes"), [("42\n", True), ("43\n", False)])
def test_stored_output_is_compared(tmp_path, text, passes):
    path = tmp_path / "10_toy.ipynb"
    store(path, text)
    rules = paths.REPO / "tests" / "notebooks" / "test_hygiene.py"  # any test there: with it comes conftest.py
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", paths.REPO / "pyproject.toml"]
    command += ["--nbval-lax", "--nbval-current-env", f"{rules}::test_no_artefact_is_declared_twice", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode == 0) is passes, done.stdout + done.stderr
    assert ("2 passed" if passes else "1 failed, 1 passed") in done.stdout
