"""Weight-space algebra: pure functions on state dicts, and the same functions file to file in bounded memory."""

from clipmerge.merge import condu, ema, recency, streaming, techniques
from clipmerge.merge.deltas import apply_delta, check_compatible, delta

__all__ = ["apply_delta", "check_compatible", "condu", "delta", "ema", "recency", "streaming", "techniques"]
