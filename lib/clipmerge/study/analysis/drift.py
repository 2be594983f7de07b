"""What the recursion does to deltas, session by session: premises of Appendix G and the error of reconstruction."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipmerge import files
from clipmerge.merge import condu
from clipmerge.study import profiles, results
from clipmerge.study.analysis import learned
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import protocol, sessions
from clipmerge.study.condu.reconstruction import cosine, density, gained, relative_l2
from clipmerge.study.profiles import Profile

DRIFT = "drift.json"
Delta = Mapping[str, Tensor]


def run(profile: Profile) -> pd.DataFrame:
    """Appendix G: what happens to u, masks, rescalers and reconstructions in every session.

    Columns ``session`` and ``age`` (sessions since the task was learned) on top. Rates, shares and densities are in per
    cent, other metrics are not; rows of a session as a whole have ``task = mean``, and ``pairs`` says out of how many.
    """
    steps = {seed: step(profile, seed) for seed in profile.seeds}
    store.build(steps.values(), profile.compute)
    frames = [pd.DataFrame(files.read_json(step.folder / DRIFT)).assign(seed=seed) for seed, step in steps.items()]
    frame = pd.concat(frames, ignore_index=True).assign(n=pd.NA, source="ours", model=profile.model)
    frame["task"] = frame.number.map(dict(enumerate(profiles.order(profile)))).fillna("mean")
    columns = ["session", "pairs", "age"]
    return results.tidy(frame[[*results.COLUMNS, *columns, "model"]].astype(dict.fromkeys(columns, "Int64")))


def step(profile: Profile, seed: int) -> Step:
    """The step that measures: original experts, ConDU's sessions and, for comparison, those of one-shot EMR."""
    inputs = learned.tuned(profile, seed)
    for name, method in (("condu", "condu-ft"), ("emr", "emr")):
        inputs |= {f"{name}.{t:02d}": kept for t, kept in enumerate(protocol.kept(profile, method, seed))}
    return Step(measure, "drift", {"rounds": profile.inside.rounds}, inputs)


def measure(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: records of every session, of every task in every session, and of signs and fixed points."""
    originals = learned.changes(inputs)
    of_sessions, of_tasks, earlier = [], [], None
    for t in range(len(originals)):
        ours, oracle = (sessions.load(inputs[f"{which}.{t:02d}"]) for which in ("condu", "emr"))
        if earlier:
            of_sessions += _session(earlier, ours)
        for i in range(t + 1):
            of_tasks += _task(originals[i], ours, oracle, earlier, i)
        earlier = ours
    pairs = [same_sign(pair) for pair in itertools.combinations(originals, 2)]
    last = [
        _record("experts", "same_sign_all", 100 * same_sign(originals), len(originals)),
        _record("experts", "same_sign_pair", 100 * float(np.mean(pairs)) if pairs else 100.0, len(originals)),
    ]
    for turn, change in enumerate(settle(earlier, config["rounds"]), start=1):
        last.append(_record("condu-ft", "settle", change, len(originals), age=turn))
    files.write_json(out / DRIFT, [*of_sessions, *of_tasks, *last])


def _record(method: str, metric: str, value: float, session: int, **columns: int) -> dict:
    empty = {"number": None, "pairs": None, "age": None}
    return {"method": method, "metric": metric, "value": value, "session": session} | empty | columns


def _session(before: condu.Unified, after: condu.Unified) -> Iterator[dict]:
    """What changed from one session to the next."""
    session = len(after.triggers)
    yield _record("condu-ft", "sign_flips", 100 * flips(before.delta, after.delta), session)
    yield _record("condu-ft", "moved", relative_l2(before.delta, after.delta), session)
    old, new = ([trigger.rescaler for trigger in unified.triggers] for unified in (before, after))
    swapped, pairs = swaps(old, new)
    if pairs:
        yield _record("condu-ft", "rescaler_swaps", 100 * swapped / pairs, session, pairs=pairs)


def _task(
    original: Delta, ours: condu.Unified, oracle: condu.Unified, before: condu.Unified | None, i: int
) -> Iterator[dict]:
    """What became of one task's delta by one session."""
    session = len(ours.triggers)
    here = {"session": session, "number": i, "age": session - 1 - i}
    back = condu.decouple(ours, i)
    for method, delta in (("condu-ft", back), ("emr", condu.decouple(oracle, i))):
        yield _record(method, "cosine", cosine(original, delta), **here)
        yield _record(method, "relative_l2", relative_l2(original, delta), **here)
    trigger = ours.triggers[i]
    known = before is not None and i < len(before.triggers)
    yield _record("condu-ft", "rescaler", trigger.rescaler, **here)
    yield _record("condu-ft", "magnitude", condu.rescaler(back, original, ours.rescaler), **here)
    yield _record("condu-ft", "gained", gained(before.triggers[i], trigger) if known else 0, **here)
    yield _record("condu-ft", "mask_density", 100 * density(trigger), **here)
    yield _record("emr", "mask_density", 100 * density(oracle.triggers[i]), **here)


def flips(before: Delta, after: Delta) -> float:
    """Share of the coordinates with a sign before (not 0) that have the opposite sign after."""
    signed = sum(int((before[name] != 0).sum()) for name in before)
    flipped = sum(int((before[name].sign() * after[name].sign() < 0).sum()) for name in before)
    return flipped / max(signed, 1)


def swaps(before: Sequence[float], after: Sequence[float]) -> tuple[int, int]:
    """(swapped, all) pairs of tasks; swapped: the larger of two rescalers has become the smaller.

    Newcomers, at the end of `after`, have had no order before and do not count.
    """
    pairs = list(itertools.combinations(range(len(before)), 2))
    return sum((before[i] - before[j]) * (after[i] - after[j]) < 0 for i, j in pairs), len(pairs)


def same_sign(deltas: Sequence[Delta]) -> float:
    """Share of the coordinates where all deltas have one sign, of those where none is zero."""
    alike = total = 0
    for name in deltas[0]:
        stack = torch.stack([delta[name].sign() for delta in deltas])
        total += int((stack != 0).all(0).sum())
        alike += int((stack.sum(0).abs() == len(deltas)).sum())
    return alike / max(total, 1)


def settle(unified: condu.Unified, rounds: int) -> list[float]:
    """Unify the same reconstructions again and again, no newcomer: the relative change of u in every round."""
    changes = []
    for _ in range(rounds):
        again = condu.unify([condu.decouple(unified, i) for i in range(len(unified.triggers))], unified.rescaler)
        changes.append(relative_l2(unified.delta, again.delta))
        unified = again
    return changes
