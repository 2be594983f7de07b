"""Experiments on merging: cached steps, the papers' protocols, baselines, and rows for every figure and table.

Families, each with a front page that says where to begin: `cache profiles experts condu baselines routing analysis time
tuning claims`. The two papers' protocols also go by names of their own: ``mtil.run`` (ConDU, §5) and ``temporal.run``
(TIME, §3).
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipmerge.study.condu import protocol as mtil
    from clipmerge.study.time import loop as temporal

    __all__ = ["mtil", "temporal"]


def __getattr__(name: str) -> ModuleType:
    """The module of a protocol, loaded when it is first asked for: not everything here needs torch."""
    found = {"mtil": "condu.protocol", "temporal": "time.loop"}.get(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{found}")
