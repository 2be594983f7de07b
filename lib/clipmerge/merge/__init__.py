"""Weight-space algebra: pure functions on state dicts, and the same functions file to file in bounded memory."""

from importlib import import_module

__all__ = ["apply_delta", "check_compatible", "condu", "delta", "ema", "recency", "streaming", "techniques"]
OF_DELTAS = ("apply_delta", "check_compatible", "delta")


def __getattr__(name: str) -> object:
    """What works on tensors comes when it is asked for: file to file nothing needs torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{'deltas' if name in OF_DELTAS else name}")
    return getattr(module, name) if name in OF_DELTAS else module
