"""Run the notebooks, each only if something it depends on has changed.

    python -m clipmerge.book.run --profile laptop [--only 11] [--seed 0] [--out FOLDER] [--force]

Those of ConDU run beside those of TIME (`lanes`), unless ``--one-by-one`` is asked for, which takes half the memory.

papermill rewrites its output at every cell and leaves broken files behind, so it writes to ``NAME.partial.ipynb``.
That becomes ``NAME.ipynb`` when every cell has run and every declared figure is there, otherwise ``NAME.failed.ipynb``.
The record ``NAME.json`` (what the run depended on, minutes, memory) is written last: no record, no run.
Exit codes: 0 all well, 1 a notebook failed, 2 bad input, 130 interrupted.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import psutil

from clipmerge import files, paths
from clipmerge.book import keys, lanes, notebooks
from clipmerge.book.setup import OVERRIDE
from clipmerge.errors import BadInput
from clipmerge.study import profiles

if TYPE_CHECKING:
    from clipmerge.book import kernels


class Failed(Exception):
    """A notebook did not run to its end, or did not make what it declares."""


@dataclass(frozen=True)
class Job:
    """One notebook to run, its parameters checked."""

    path: Path
    nb: nbformat.NotebookNode
    profile: profiles.Profile
    argument: str  # how the profile was named: `setup` gets the same
    seed: int
    out: str

    def file(self, ending: str) -> Path:
        """A file of this notebook in the folder of executed notebooks."""
        return paths.cache("executed", self.profile.name, f"{self.path.stem}{ending}")

    @property
    def parts(self) -> dict[str, str]:
        """What its outputs depend on. Other notebooks' csv may have been made since this was last asked for."""
        return self._settled | keys.read(self.nb, self.figures())

    @cached_property
    def _settled(self) -> dict[str, str]:
        """What does not change while notebooks run: a third of a second's work, done once."""
        return keys.parts(self.nb, self.profile, self.seed, self.figures())

    def figures(self) -> Path:
        """The folder its figures and tables go to."""
        return Path(self.out) if self.out else paths.figures(self.profile.name)


def plan(profile: str, seed: int, out: str, only: Sequence[str], folder: Path | None) -> list[Job]:
    """The notebooks to run, in number order; every bad input is found here, before the first one starts."""
    argument = os.environ.get(OVERRIDE) or profile
    chosen = profiles.load(argument)
    if seed < 0 or "{" in out or "}" in out:  # papermill takes braces for a format string
        raise BadInput(f"expected a seed from 0 up and a folder without braces, found {seed} and {out!r}")
    everything = notebooks.every() if folder is None else sorted(folder.glob("*.ipynb"))
    selected = [path for path in everything if path.stem.startswith(tuple(only) or chosen.notebooks or ("",))]
    if not selected:
        names = ", ".join(path.stem for path in everything) or "none there"
        raise BadInput(f"notebooks: expected one whose name starts with {' or '.join(only)!r}, found {names}")
    out = str(Path(out).expanduser().resolve()) if out else ""
    jobs = [Job(path, notebooks.read(path), chosen, argument, seed, out) for path in selected]
    for job in jobs:
        notebooks.parameters(job.nb, job.path.name)
    return jobs


def reason(job: Job) -> str:
    """Why a notebook must run; empty if it need not."""
    record = notebooks.record(job.file(".json"))
    if not record or not job.file(".ipynb").exists():
        return "no finished run yet"
    if names := keys.changed(record["parts"], job.parts):
        return "changed: " + ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    lost = keys.changed(record.get("outputs", {}), keys.written(job.nb, job.figures()))
    return f"missing, or not as it was made: {', '.join(lost)}" if lost else ""


def execute(job: Job) -> dict:
    """Run one notebook and return its record, written last; raises `Failed` naming the cell."""
    from clipmerge.book import kernels  # slow to import, and not needed when nothing has changed

    partial = job.file(".partial.ipynb")
    failed = job.file(".failed.ipynb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    for stale in (job.file(".json"), failed):
        stale.unlink(missing_ok=True)
    parts = job.parts  # as they are before it runs
    before = _made(job)
    start = time.perf_counter()
    try:
        spent = kernels.execute(job.path, partial, {"profile": job.argument, "seed": job.seed, "out": job.out})
    except KeyboardInterrupt:
        partial.unlink(missing_ok=True)
        raise
    except Exception as error:  # papermill, nbclient and zmq each have their own
        if not partial.exists():
            raise Failed(f"it could not be started: {_short(error)}") from error
        where = _last_cell(partial)
        os.replace(partial, failed)
        raise Failed(f"{where} raised {_short(error)} (everything is in {failed})") from error
    missing = [id for id, date in _made(job).items() if date in (None, before[id])]
    if missing:
        os.replace(partial, failed)
        raise Failed(f"it ran, but did not make {', '.join(missing)}, which its metadata declares")
    os.replace(partial, job.file(".ipynb"))
    record = {"parts": parts, "outputs": keys.written(job.nb, job.figures())}
    record |= _cost(job, spent, time.perf_counter() - start)
    files.write_json(job.file(".json"), record)
    return record


def _cost(job: Job, spent: "kernels.Spent", seconds: float) -> dict:
    """What a run of so many `seconds` took, and where: what `costs` needs to tell what it takes from an empty cache."""
    return {
        "profile": job.profile.name,
        "machine": f"{psutil.cpu_count()} cores, {job.profile.compute.device}",
        "workers": job.profile.compute.workers,
        "minutes": round(seconds / 60, 2),
        "own_seconds": round(min(seconds - spent.waited, spent.computed), 2),
        "peak_mb": round(spent.peak_mb),
        "notebook_mb": round(spent.notebook_mb),
        "steps": spent.steps,
    }


def run(jobs: list[Job], force: bool = False) -> int:
    """Run what needs to be run, one line a notebook; a failure does not stop the others. Returns how many failed."""
    failures = 0
    for job in jobs:
        name = job.path.stem
        why = "asked to" if force else reason(job)
        if not why:
            made = len(notebooks.outputs(job.nb))
            print(f"{name}: up to date (nothing it depends on has changed; {made} outputs there)", flush=True)
            continue
        print(f"{name}: running ({why})", flush=True)
        try:
            record = execute(job)
        except Failed as error:
            failures += 1
            print(f"{name}: FAILED: {error}", file=sys.stderr, flush=True)
        else:
            print(f"{name}: {record['minutes']:.1f} min, {record['peak_mb']:,} MB at peak", flush=True)
    return failures


def side_by_side(jobs: list[Job], args: argparse.Namespace) -> int:
    """Run the lanes of `jobs` at the same time, then what belongs to none; returns the exit code."""
    from clipmerge.book import records  # slow to import, and not needed when nothing has changed

    names = [job.path.stem for job in jobs]
    same = ["--profile", args.profile, "--seed", str(args.seed), "--out", args.out]
    same += ["--notebooks", str(args.notebooks)] if args.notebooks else []
    beside = lanes.split(names)
    code = lanes.run(beside, [*same, "--force"] if args.force else same, jobs[0].profile.compute.workers)
    records.index(jobs[0].figures())  # each lane wrote the gallery as it saw it
    rest = [job for job in jobs if job.path.stem not in sum(beside, [])]
    return max(code, 1 if run(rest, args.force) else 0)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m clipmerge.book.run", description="Run the notebooks.")
    parser.add_argument("--profile", default="laptop", help="name or YAML file (default: laptop)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="folder for figures and tables (default: figures/<profile>)")
    parser.add_argument("--only", nargs="+", default=[], help="those whose name starts so, e.g. 11 12 (the profile's)")
    parser.add_argument("--notebooks", type=Path, help="folder of notebooks (default: the project's)")
    parser.add_argument("--force", action="store_true", help="run even what is up to date")
    parser.add_argument("--one-by-one", action="store_true", help="never two notebooks at once: half the memory")
    parser.add_argument(lanes.LEASH, dest="leash", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    if args.leash:
        lanes.leash()
    try:
        jobs = plan(args.profile, args.seed, args.out, args.only, args.notebooks)
        if not args.one_by_one and len(lanes.split(job.path.stem for job in jobs if _due(job, args.force))) > 1:
            return side_by_side(jobs, args)
        failures = run(jobs, args.force)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if not args.leash:  # who holds it says so
            print("interrupted: what was finished is kept, the same command goes on from there", file=sys.stderr)
        return 130
    return 1 if failures else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _due(job: Job, force: bool) -> bool:
    return force or bool(reason(job))


def _made(job: Job) -> dict[str, int | None]:
    """When (ns) each figure or table it declares was last made: the date of its json, which `records.save` always
    touches; None where something is missing.

    Dates are compared with dates only: files may be on a machine whose clock is not ours.
    """
    dates = {}
    for id in notebooks.outputs(job.nb):
        csv, record = (job.figures() / f"{id}.{kind}" for kind in ("csv", "json"))
        dates[id] = record.stat().st_mtime_ns if csv.exists() and record.exists() else None
    return dates


def _last_cell(partial: Path) -> str:
    """The cell papermill started last, as readers of the failed notebook see it."""
    cells = notebooks.code_cells(notebooks.read(partial))
    started = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    if not started:
        return "its kernel"
    line = next((line for line in started[-1].source.splitlines() if line.strip()), "")
    return f"cell In [{len(started)}] {line!r}"


def _short(error: Exception) -> str:
    name, text = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error))
    return f"{name}: {' '.join(text.split())[:300]}"


if __name__ == "__main__":
    sys.exit(main())
