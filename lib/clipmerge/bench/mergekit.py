"""mergekit's own command on the same files, where the reader has it (`--mergekit PATH`): a whole process beside ours.

mergekit is no dependency: its pinned versions would hold back those of this project. Install it into an environment
of its own (``pip install mergekit``) and name its ``mergekit-pytorch``.
"""

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from clipmerge import files
from clipmerge.errors import BadInput

# Ours → theirs, with the same numbers. Their TIES trims tensor by tensor, ours the whole vector as its authors do.
METHODS = {
    "average": {"merge_method": "linear", "parameters": {"weight": 1.0, "normalize": True}},
    "ties": {"merge_method": "ties", "parameters": {"weight": 1.0, "density": 0.2, "normalize": True}},
}


def recipe(operation: str, base: Path, experts: Sequence[Path]) -> dict:
    """The recipe that asks `mergekit-pytorch` for one of `METHODS`."""
    chosen = {**METHODS[operation], "dtype": "float32", "models": [{"model": str(path)} for path in experts]}
    return chosen if operation == "average" else chosen | {"base_model": str(base)}


def seconds(command: str, operation: str, base: Path, experts: Sequence[Path], threads: int, place: Path) -> float:
    """Seconds of the whole process; what it writes into `place` is removed again."""
    if shutil.which(command) is None:
        raise BadInput(f"--mergekit: expected the path of mergekit-pytorch, found {command!r}, which cannot be run")
    config, out = place / "mergekit.yaml", place / "mergekit-out"
    files.write_text(config, yaml.safe_dump(recipe(operation, base, experts)))
    words = [command, str(config), str(out), "--quiet", "--num-threads", str(threads)]
    start = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    taken = time.perf_counter() - start
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    config.unlink()
    return taken
