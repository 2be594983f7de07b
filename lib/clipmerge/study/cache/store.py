"""The step cache: the folder of a step is whole and verified, or it is not there.

As a step's key follows from what goes into it, changing one task's learning rate recomputes that expert and what
follows from it, and nothing else:

    tune = [Step(finetune.expert, f"expert/{task}", config[task], {"base": weights}, seed) for task in tasks]
    unify = Step(condu_session, "unify/1", {"rescaler": "tensor_mean"}, {"newcomer": tune[0]})
    store.build([*tune, unify], profile.compute)

A step function has the signature ``fn(out: Path, *, config, inputs, seed)`` and writes files into the folder `out`;
``config`` holds plain JSON values, ``inputs`` a path by name: the file, or the folder of the upstream step. Whatever it
reads must be among them.
"""

import copy
import json
import logging
import os
import shutil
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from clipmerge import files, paths
from clipmerge.clip import device
from clipmerge.clip.compute import Compute
from clipmerge.errors import BadInput
from clipmerge.study.cache import isolation, ledger, placement, planned, scheduler
from clipmerge.study.cache.step import DONE, Step, changes, surroundings

log = logging.getLogger(__name__)
ENGINE = "CLIPMERGE_ENGINE"  # in the environment: the engine of everything that need not be alone
ALONE = Compute()  # one process on the CPU
_outcomes: dict[Path, str] = {}  # by folder: "cached" or "computed", as first met in this process
_verified: dict[Path, tuple[int, int]] = {}  # size and modification time of files whose digest was right


def get(step: Step) -> Path:
    """The folder of a step, computed (after whatever it needs) if it is not in the cache."""
    if planned.going_on() and there(step):
        return step.folder  # what else is to be planned may hang on it
    return build([step])[0]


def build(steps: Iterable[Step], compute: Compute = ALONE) -> list[Path]:
    """The folders of `steps`; what is missing is computed, each step as soon as what it needs is there."""
    steps = list(steps)
    planned.note(steps, compute)
    ledger.meet(steps)
    missing = _missing(steps)
    for step in missing:
        log.info(why(step))
    detached = [_detached(step) for step in missing]
    number = {step.folder: index for index, step in enumerate(missing)}
    needs = [[number[path] for path in step.inputs.values() if path in number] for step in detached]
    needed = [placement.need(step) for step in missing]
    with ledger.computing(), isolation.terminable():
        scheduler.flow(_compute, detached, needs, compute.workers, engine(compute), compute.threads, needed)
    _outcomes.update({step.folder: "computed" for step in missing})
    return [step.folder for step in steps]


def engine(compute: Compute) -> str:
    """What runs the steps: the engine that `compute` names, unless the environment has another for all but `ALONE`."""
    return compute.engine if compute == ALONE else os.environ.get(ENGINE, compute.engine)


def cached(step: Step) -> bool:
    """Whether a step needs no computing."""
    return step.folder.exists() and _fault(step) is None


def there(step: Step) -> bool:
    """Whether the cache has a step's folder, unread: quicker than `cached`, and nothing is verified."""
    return (step.folder / DONE).is_file()


def record(step: Step) -> dict[str, Any]:
    """What `DONE.json` says of a computed step: key, parts, files, seconds, cpu_seconds, peak_memory_mb, when."""
    return json.loads((step.folder / DONE).read_text(encoding="utf8"))


def summary() -> str:
    """What this process asked of the cache so far, e.g. ``33 cached, 1 computed``."""
    counts = Counter(_outcomes.values())
    return f"{counts['cached']} cached, {counts['computed']} computed"


def why(step: Step) -> str:
    """One line: why a step must be computed, judged by the cached step of the same name that differs least.

    For example ``expert/digits: config.lr 0.0001 → 0.0002``.
    """
    if step.folder.exists():
        return f"{step.name}: {_fault(step) or 'cached'}"
    earlier = []
    for done in step.folder.parent.glob(f"[!.]*/{DONE}"):
        with suppress(OSError, ValueError):
            earlier.append(json.loads(done.read_text(encoding="utf8")))
    if not earlier:
        return f"{step.name}: never computed"
    newest_first = sorted(earlier, key=lambda done: done["when"], reverse=True)
    fewest = min((changes(done["parts"], step.parts) for done in newest_first), key=len)
    return f"{step.name}: {', '.join(fewest) or 'an empty setting came or went'}"


def _detached(step: Step) -> Step:
    """The step with folders for upstream steps, which may not be there yet: long chains do not survive pickling."""
    twin = copy.copy(step)
    folders = {name: value.folder if isinstance(value, Step) else Path(value) for name, value in step.inputs.items()}
    object.__setattr__(twin, "inputs", folders)
    return twin


def _missing(steps: Iterable[Step]) -> list[Step]:
    """What must be computed, whatever a step needs before the step itself."""
    met: set[Path] = set()
    missing: list[Step] = []

    def visit(step: Step) -> None:
        if step.folder in met:
            return
        met.add(step.folder)
        if _usable(step):
            _outcomes.setdefault(step.folder, "cached")
            return
        for value in step.inputs.values():
            if isinstance(value, Step):
                visit(value)
        missing.append(step)

    for step in steps:
        visit(step)
    return missing


def _usable(step: Step) -> bool:
    """Whether the cache has the step; a folder that is not what it says is moved out of the way."""
    if not step.folder.exists():
        return False
    fault = _fault(step)
    if fault is None:
        return True
    aside = paths.cache("quarantine", f"{step.name.replace('/', '-')}-{step.folder.name}-{uuid.uuid4().hex[:6]}")
    aside.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # another process was quicker
        os.rename(step.folder, aside)
    log.warning("%s: %s; moved to %s and computed again", step.name, fault, aside)
    return False


def _fault(step: Step) -> str | None:
    """What is wrong with the folder of a step, if anything.

    Digests are checked when a process first uses a file, afterwards its size and modification time.
    """
    try:
        done = record(step)
        key, listed = done["key"], {step.folder / name: about for name, about in done["files"].items()}
    except (OSError, ValueError, KeyError):
        return f"{DONE} is missing or damaged"
    if key != step.key:
        return f"{DONE} belongs to another key"
    for path, about in listed.items():
        if not path.is_file():
            return f"{path.name} is missing"
        stat = path.stat()
        now = (stat.st_size, stat.st_mtime_ns)
        if _verified.get(path) == now:
            continue
        if stat.st_size != about["bytes"]:
            return f"{path.name} has {stat.st_size} bytes instead of {about['bytes']}"
        if files.sha256(path) != about["sha256"]:
            return f"{path.name} does not have its sha256"
        _verified[path] = now
    return None


def _compute(step: Step) -> None:
    """Run a step in a folder beside its own and rename that at the very end: here or in a worker process."""
    here = surroundings(step.fn)
    if here != {part: step.parts[part] for part in here}:
        raise BadInput(f"{step.name}: its code changed while it was waiting to run; start again")
    _sweep(step.folder.parent)
    mine = f".{step.folder.name}.{uuid.uuid4().hex[:6]}.{os.getpid()}@{socket.gethostname()}.partial"
    partial = step.folder.with_name(mine)
    partial.mkdir(parents=True)
    try:
        start, processor = time.perf_counter(), time.process_time()
        numerics = step.config.get("compute", ALONE.numerics)
        alone = isolation.alone(step.seed)
        kept = isolation.resumable(paths.cache("checkpoints", f"{step.key[:20]}.safetensors"))
        with alone, kept, isolation.PeakMemory() as memory, device.using(numerics, scheduler.place()) as where:
            step.fn(partial, config=copy.deepcopy(step.config), inputs=dict(step.inputs), seed=step.seed)
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - processor}
        _sign(partial, step, took | {"peak_memory_mb": memory.mb}, where.type)
        _publish(partial, step.folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sign(folder: Path, step: Step, cost: Mapping[str, float], where: str) -> None:
    """Write DONE.json, the last file of every folder. A power cut may still lose bytes of the others: hence digests."""
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    if not written:
        raise BadInput(f"{step.name}: expected {step.parts['function']} to write files, found none")
    about = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
        for path in written
    }
    done = {"name": step.name, "key": step.key, "parts": step.parts, "files": about}
    cost = {name: round(value, 3) for name, value in cost.items()}
    files.write_json(folder / DONE, {**done, **cost, "device": where, "when": datetime.now(UTC).isoformat()})


def _publish(partial: Path, final: Path) -> None:
    """Give a finished folder its name; if another process did so first, its result stands and ours goes."""
    try:
        os.rename(partial, final)
    except OSError:
        if not (final / DONE).is_file():
            raise
    files.fsync_folder(final.parent)


def _sweep(folder: Path) -> None:
    """Remove what processes of this machine that no longer live have left half-made."""
    for left in folder.glob(f".*@{socket.gethostname()}.partial"):
        pid = left.name.rpartition("@")[0].rpartition(".")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
