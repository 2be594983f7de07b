"""A verdict as a line of a table; the rule by which it is reached is `clipmerge.study.claims.evidence`.

The interval is over seeds, on the test images at hand. Which images were drawn is not in it. Two methods err on much
the same images, so that what the draw does to their *difference* shows only image by image (a paired bootstrap), and
artefacts keep accuracies, not answers. Captions say how many images stand behind a number.
"""

from collections.abc import Iterable

from clipmerge.book.tables import mean_sd
from clipmerge.errors import BadInput
from clipmerge.study.claims.evidence import best_elsewhere, interval, numbers, word

__all__ = ["best_elsewhere", "verdict"]


def verdict(
    claim: str,
    gap: Iterable[float],
    above: float | None = None,
    below: float | None = None,
    unit: str = "points",
    digits: int = 1,
    within: float | None = None,
) -> dict[str, object]:
    """A line of a table of verdicts: ``claim``, ``difference``, ``95 %``, ``seeds``, ``verdict``.

    The claim is that the mean of `gap` is above 0, or `above` a number, or `below` one, or less than `within` from 0.
    The difference is given as mean ± sd and `unit`, the interval of its mean in the same unit. Seeds without a number
    are left out, and numbers that are the same for all seeds count once.
    """
    try:
        answer = word(gap, above, below, within)
    except BadInput as error:
        raise BadInput(f"claim {claim!r}: {error}") from None
    kept = numbers(gap)
    found = interval(kept)
    return {
        "claim": claim,
        "difference": f"{mean_sd(kept, digits)} {unit}".rstrip() if len(kept) else mean_sd(kept),
        "95 %": "[{}, {}]".format(*(f"{end:z.{digits}f}" for end in found)) if found else "–",
        "seeds": len(kept),
        "verdict": answer,
    }
