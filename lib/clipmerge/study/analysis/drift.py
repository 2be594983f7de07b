"""What the recursion does to deltas, session by session: premises of Appendix G and the error of reconstruction.

Inputs of the step: the original experts ``expert.00`` …, ConDU's sessions ``condu.00`` … and, for comparison, those of
one-shot EMR ``emr.00`` …, all in the order of learning.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipmerge import files
from clipmerge.merge import condu
from clipmerge.study import experts
from clipmerge.study.condu import sessions

DRIFT = "drift.json"
Delta = Mapping[str, Tensor]


def cosine(a: Delta, b: Delta) -> float:
    """Cosine between two deltas, all tensors as one vector, in fp64; 0 if one of them is zero."""
    ab, aa, bb = _products(a, b)
    return ab / math.sqrt(aa * bb) if aa and bb else 0.0


def relative_l2(original: Delta, back: Delta) -> float:
    """‖back − original‖ / ‖original‖ over all tensors, in fp64; infinite if the original is zero."""
    ab, aa, bb = _products(original, back)
    return math.sqrt(max(0.0, aa - 2 * ab + bb) / aa) if aa else math.inf


def _products(a: Delta, b: Delta) -> tuple[float, float, float]:
    """(a·b, a·a, b·b)."""
    pairs = [(a[name].double().reshape(-1), b[name].double().reshape(-1)) for name in a]
    sums = [(x @ y, x @ x, y @ y) for x, y in pairs]
    ab, aa, bb = (math.fsum(float(value) for value in column) for column in zip(*sums, strict=True))
    return ab, aa, bb


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


def density(trigger: condu.Trigger) -> float:
    """Share of ones in a task's mask."""
    ones = sum(int(np.bitwise_count(mask.bits.numpy()).sum()) for mask in trigger.mask.values())
    return ones / max(sum(mask.count for mask in trigger.mask.values()), 1)


def gained(before: condu.Trigger, after: condu.Trigger) -> int:
    """Number of ones in a mask that were none a session earlier. Provably 0: masks only shrink."""
    pairs = ((before.mask[name].bits, after.mask[name].bits) for name in after.mask)
    return sum(int(np.bitwise_count((new & ~old).numpy()).sum()) for old, new in pairs)


def magnitude(delta: Delta, kind: str) -> float:
    """A(δ), the average magnitude that the rescaler of this kind preserves."""
    norms = {name: x.abs().sum(dtype=torch.float64).item() for name, x in delta.items()}
    weight = {name: 1 / x.numel() if kind == "tensor_mean" else 1.0 for name, x in delta.items()}
    return math.fsum(norms[name] * weight[name] for name in norms)


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


def measure(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: one record a session, one record a session and task, and the signs of the original deltas."""
    originals = [experts.delta(inputs[name]) for name in sorted(inputs) if name.startswith("expert.")]
    per_session, per_task, earlier = [], [], None
    for t in range(len(originals)):
        ours, oracle = (sessions.load(inputs[f"{which}.{t:02d}"] / sessions.UNIFIED) for which in ("condu", "emr"))
        per_session.append({"session": t + 1, **_between(earlier, ours)})
        for i in range(t + 1):
            per_task.append({"session": t + 1, "number": i, **_task(originals[i], ours, oracle, earlier, i)})
        earlier = ours
    pairs = [same_sign(pair) for pair in itertools.combinations(originals, 2)]
    signs = {"pair": float(np.mean(pairs)) if pairs else 1.0, "all": same_sign(originals)}
    changes = settle(earlier, config["rounds"])
    files.write_json(out / DRIFT, {"sessions": per_session, "tasks": per_task, "signs": signs, "settle": changes})


def _between(before: condu.Unified | None, after: condu.Unified) -> dict:
    """What changed from one session to the next."""
    if before is None:
        return {}
    old, new = ([trigger.rescaler for trigger in unified.triggers] for unified in (before, after))
    swapped, pairs = swaps(old, new)
    moved = relative_l2(before.delta, after.delta)
    return {"flips": flips(before.delta, after.delta), "swapped": swapped, "pairs": pairs, "moved": moved}


def _task(original: Delta, ours: condu.Unified, oracle: condu.Unified, before: condu.Unified | None, i: int) -> dict:
    """What became of one task's delta by one session."""
    back, at_once, kind = condu.decouple(ours, i), condu.decouple(oracle, i), ours.rescaler
    known = before is not None and i < len(before.triggers)
    return {
        "condu-ft": {"cosine": cosine(original, back), "relative_l2": relative_l2(original, back)},
        "emr": {"cosine": cosine(original, at_once), "relative_l2": relative_l2(original, at_once)},
        "rescaler": ours.triggers[i].rescaler,
        "density": density(ours.triggers[i]),
        "density_emr": density(oracle.triggers[i]),
        "gained": gained(before.triggers[i], ours.triggers[i]) if known else 0,
        "magnitude": magnitude(back, kind) / magnitude(original, kind),
    }
