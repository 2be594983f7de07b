"""What notebooks would compute at a profile: their steps, cached or not, and what is missing. Nothing is started.

The statements of a notebook that ask for steps (`slices`) are run one by one while the store only notes what it is
asked for. A statement that ends so, or needs the result of one that did, is passed over; any other failure is told.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from clipmerge import paths
from clipmerge.book import notebooks
from clipmerge.book.ahead import asking, slices
from clipmerge.book.run import Job
from clipmerge.book.run_record import Run
from clipmerge.clip import device
from clipmerge.clip.data import real
from clipmerge.errors import BadInput
from clipmerge.study.cache import planned, store
from clipmerge.study.cache.planned import Asked
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile


@dataclass
class Graph:
    """What notebooks ask for, every step behind it once (each after what it needs), and what could not be read off."""

    profile: Profile
    asked: list[Asked] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def to_do(self) -> list[Step]:
        """The steps to compute: those asked for that the cache lacks, and what they need that it lacks too."""
        wanted: set[Path] = {step.folder for each in self.asked for step in each.steps}
        found = []
        for step in reversed(self.steps):
            if step.folder in wanted and not store.there(step):
                found.append(step)
                wanted |= {value.folder for value in step.inputs.values() if isinstance(value, Step)}
        return found[::-1]


def graph(jobs: Sequence[Job]) -> Graph:
    """The steps that these notebooks ask for."""
    found = Graph(jobs[0].profile)
    with tempfile.TemporaryDirectory() as out, device.nowhere():
        for job in jobs:
            asked, problems = _dry(job, Path(out))
            found.asked += asked
            found.problems += [f"notebook {job.path.stem}: {said}" for said in problems]
    _walk(found)
    return found


def _dry(job: Job, out: Path) -> tuple[list[Asked], list[str]]:
    """What one notebook asks for, and the statements that failed for another reason."""
    run = Run(job.profile, job.seed, out, job.profile.compute.device, {}, 0.0)
    scope = {"profile": job.argument, "seed": job.seed, "out": str(out), "run": run}
    given = set(scope)
    lost: set[str] = set()  # names that have no value, as it hangs on results
    problems = []
    statements = slices.planning([cell.source for cell in notebooks.code_cells(job.nb)])
    with planned.collecting() as asked, contextlib.redirect_stdout(io.StringIO()):
        for one in statements:
            if slices.defines(one) & given:
                continue
            before = len(asked)
            said = _said(one, scope, asked)
            hangs = bool(slices.uses(one) & lost) or len(asked) > before
            if said and not hangs:
                problems.append(said)
            lost = lost | slices.defines(one) if hangs or said is not None else lost - slices.defines(one)
    return asked, problems


def _said(one: slices.ast.stmt, scope: dict[str, object], asked: list[Asked]) -> str | None:
    """Run one statement: None if it ends well, what it says if it fails, nothing if it had to."""
    try:
        asking.run(one, scope, asked)
    except planned.Planned:
        return ""
    except Exception as error:  # whatever a reader's cell may raise
        return "" if _by_design(error) else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def _by_design(error: Exception) -> bool:
    """Whether a statement failed because nothing is computed, or because a pack is missing, which is told elsewhere."""
    if isinstance(error, NameError):  # of a statement that a plan does not run
        return True
    return isinstance(error, BadInput) and (str(error) == device.NONE_HERE or "expected a pack in" in str(error))


def _walk(found: Graph) -> None:
    """Fill in the steps behind those asked for, each after what it needs."""
    met: set[Path] = set()
    stack: list[tuple[Step, bool]] = [(step, False) for each in reversed(found.asked) for step in reversed(each.steps)]
    while stack:  # no recursion: chains are long
        step, ready = stack.pop()
        if ready:
            found.steps.append(step)
        elif step.folder not in met:
            met.add(step.folder)
            stack.append((step, True))
            stack += [(value, False) for value in step.inputs.values() if isinstance(value, Step)]


def missing(found: Graph, engine: str, to_write_mb: float, looked_at: Iterable[str]) -> list[str]:
    """Everything that stands in the way, one phrase each; `looked_at`: the `sets` of the graph."""
    profile = found.profile
    lacks = [f"{name}: its pack (`{remedy}`)" for name in looked_at if (remedy := real.missing(name))]
    free = _free_mb()
    if to_write_mb > free:
        lacks.append(f"disk: {to_write_mb / 1000:.0f} GB to write, {free / 1000:.0f} GB free in {paths.cache()}")
    if engine == "ray" and find_spec("ray") is None:
        lacks.append("the package ray (pip install clipmerge[paper])")
    if engine != "ray" and profile.compute.device not in ("auto", "cpu"):
        try:
            device.resolve(profile.compute.device)
        except BadInput as error:
            lacks.append(str(error))
    return _grouped(lacks) + found.problems


def sets(found: Graph) -> list[str]:
    """The real sets whose images the steps to do look at."""
    named = (name for step in found.to_do() for name in _named(step.config))
    return [name for name in dict.fromkeys(named) if real.known(name)]


def _named(config: object) -> Iterator[str]:
    """Every value under a key ``task``, however deep."""
    if isinstance(config, dict):
        if isinstance(config.get("task"), str):
            yield config["task"]
        config = [value for key, value in config.items() if key != "task"]
    if isinstance(config, list):
        for value in config:
            yield from _named(value)


def _grouped(lacks: list[str]) -> list[str]:
    """One line for all sets that one command brings."""
    fomo = [each for each in lacks if each.startswith(real.FOMO)]
    if len(fomo) < 2:
        return lacks
    rest = [each for each in lacks if each not in fomo]
    return [*rest, f"{len(fomo)} sets of FoMo-in-Flux: their packs ({fomo[0].partition('(')[2]}"]


def _free_mb() -> float:
    place = paths.cache().resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free / 1e6
