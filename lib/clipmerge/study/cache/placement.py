"""What a step needs to run: a GPU, or a share of one, if it shows something to a model (``compute`` in its config)."""

from clipmerge.study.cache.cluster import Need
from clipmerge.study.cache.step import Step

SMALL = 0.125  # of a GPU, for the nano models: eight of them share one


def need(step: Step) -> Need:
    """The GPU that a step needs; none if it only moves weights, or if its profile computes on the CPU."""
    device = step.config.get("compute", {}).get("device", "cpu")
    if device not in ("auto", "cuda"):
        return Need()
    from clipmerge.clip import models  # late: whoever merges needs no open_clip

    name = str(step.config.get("model", "")).partition("/")[0]
    return Need(SMALL if name in models.NANO else 1.0, device == "cuda")
