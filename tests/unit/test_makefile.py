"""`make setup` says little when all is well, and what pip said when it is not."""

import os
import shutil
import subprocess
import sys

import pytest

from clipmerge import paths

WARNING = "WARNING: Location '/nowhere/at/all' is ignored"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this system")
def test_a_failing_pip_is_heard_and_its_environment_does_not_count_as_made(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(paths.REPO / name, tmp_path)
    (tmp_path / "requirements.lock").write_text("clipmerge-has-no-such-part\n")
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/nowhere/at/all"}  # a user's, which pip minds
    settings |= {"MAKEFLAGS": "--no-print-directory"}  # nothing from `make test`, if that is what runs this
    done = subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}"], cwd=tmp_path, env=os.environ | settings, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    log = (tmp_path / ".venv" / "setup.log").read_text()
    assert done.returncode == 2 and not (tmp_path / ".venv" / ".installed").exists()
    assert WARNING in log and log in done.stderr
    assert "No matching distribution found for clipmerge-has-no-such-part" in log
    assert "all it said is in .venv/setup.log" in done.stderr
    assert len(done.stdout.splitlines()) <= 3 and WARNING not in done.stdout
