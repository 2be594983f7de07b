"""Recency weights: how much each expert counts in offline interpolation, oldest first (TIME; methods of its code)."""

import math
from collections.abc import Callable

from clipmerge.merge.registry import among

SCHEDULES: dict[str, Callable[[int], float]] = {
    "uniform": lambda i: 1.0,
    "linear": float,
    "sqrt": math.sqrt,
    "quadratic": lambda i: float(i**2),
    "cubic": lambda i: float(i**3),
    "fifth": lambda i: float(i**5),
    "tenth": lambda i: float(i**10),
    "log": lambda i: math.log(i + 1),
    "exp": lambda i: 2.0 ** (i - 1),
}


def weights(schedule: str, count: int, reverse: bool = False) -> list[float]:
    """Weights of experts i = 1 (oldest) … n (newest), summing to 1; `reverse` favours the oldest instead.

    uniform 1, linear i, sqrt √i, quadratic i², cubic i³, fifth i⁵, tenth i¹⁰, log ln(i + 1), exp 2^(i − 1).
    """
    among("schedule", schedule, tuple(SCHEDULES))
    raw = [SCHEDULES[schedule](i) for i in range(1, count + 1)]
    total = math.fsum(raw)
    return [value / total for value in (reversed(raw) if reverse else raw)]
