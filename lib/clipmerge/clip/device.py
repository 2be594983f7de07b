"""Where tensors are computed, and how precisely: what `Compute` asks for, on the machine that computes."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch

from clipmerge.errors import BadInput

NONE_HERE = "model: expected none while a plan is made"
KINDS = ("auto", "cpu", "cuda", "mps")


_here: ContextVar[tuple[torch.device | None, str]] = ContextVar("here", default=(torch.device("cpu"), "none"))


def resolve(kind: str, slot: int = 0) -> torch.device:
    """The device of this machine that `kind` means; workers on one machine share its GPUs by their number, `slot`."""
    if kind not in KINDS:
        raise BadInput(f"compute.device: expected one of {', '.join(KINDS)}; found {kind!r}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = next(name for name in there if there[name]) if kind == "auto" else kind
    if not there[found]:
        raise BadInput(f"compute.device: expected {found} on this machine, found none")
    return torch.device("cuda", slot % torch.cuda.device_count()) if found == "cuda" else torch.device(found)


@contextmanager
def using(numerics: Mapping[str, str], slot: int = 0) -> Iterator[torch.device]:
    """Models that are made in this context go to the device that `Compute.numerics` asks for."""
    device = resolve(numerics["device"], slot)
    token = _here.set((device, numerics["autocast"]))
    try:
        yield device
    finally:
        _here.reset(token)


@contextmanager
def nowhere() -> Iterator[None]:
    """No model can be made in this context: whoever only plans computes, and fetches, nothing by mistake."""
    token = _here.set((None, "none"))
    try:
        yield
    finally:
        _here.reset(token)


def somewhere() -> bool:
    """Whether models can be made in this context: everywhere but in `nowhere`."""
    return _here.get()[0] is not None


def here() -> torch.device:
    """Where models go: the CPU, unless a surrounding `using` says otherwise."""
    device = _here.get()[0]
    if device is None:
        raise BadInput(NONE_HERE)
    return device


def autocast() -> AbstractContextManager:
    """The precision of forward passes: fp32, or bf16 where the profile says so."""
    return torch.autocast(here().type, dtype=torch.bfloat16) if narrow() else nullcontext()


def narrow() -> bool:
    """Whether forward passes are narrower than fp32."""
    return _here.get()[1] != "none"
