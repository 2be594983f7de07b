"""From `.pt` to safetensors: the one place that opens a pickle, and only with `weights_only=True`."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.merge.preflight import guard
from clipmerge.merge.techniques import tied


def convert(source: str | Path, out: str | Path, force: bool = False) -> Path:
    """Write the state dict of a `.pt` checkpoint (bare, or under "state_dict") as safetensors.

    The prefix that DataParallel puts before every key is dropped. Tied tensors are written in full, as open_clip wants
    to find them, and listed in the file's meta record, so that they are merged once.
    """
    out = guard(out, [Path(source)], force)
    state = _load(Path(source))
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    state = {name: tensor.detach() for name, tensor in state.items()}
    aliases = tied(state, [])
    whole = {name: tensor.clone() for name, tensor in state.items()}  # no shared storage: safetensors refuses it
    files.save_tensors(out, whole, {"tied": aliases} if aliases else None)
    return out


def _load(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"{path}: expected a .pt checkpoint, found nothing there") from None
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(
            f"{path}: expected a .pt file that holds weights only, found something else ({reason})"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise BadInput(f"{path}: expected a state dict, found a {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise BadInput(f"{path}: {name} should be a tensor, found a {type(value).__name__}")
    return state
