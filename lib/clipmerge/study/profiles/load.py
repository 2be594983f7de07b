"""Profiles: every number an experiment depends on, read strictly from one YAML file into frozen dataclasses.

``laptop`` is what the committed figures show; the others extend it and say only what is different: ``smoke`` checks the
code, ``overnight`` has all seeds and scales, ``paper-condu`` and ``paper-time`` are the papers' own scale, and
``workstation`` is what one GPU does of it. Where keys are names (of tasks, mixtures, options), null takes one away that
the profile below has. A key that is unknown, missing or of the wrong type is refused with its dotted name: a typo must
never mean "use the default".
"""

import types
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from clipmerge.clip.recipes import Finetune
from clipmerge.errors import BadInput
from clipmerge.study.profiles.settings import Profile

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The profiles that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(name_or_path: str | Path) -> Profile:
    """Read a profile by name (``laptop``) or from a YAML file of the reader's own (``mine.yaml``)."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name_or_path}.yaml"
    return read(Profile, {"name": path.stem, **_tree(path, str(name_or_path))}, path.name, ())


def _tree(path: Path, asked: str) -> dict[str, Any]:
    """What a file says, on top of what the profile it `extends` says."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        expected = f"one of {', '.join(names())} or a YAML file"
        raise BadInput(f"profile: expected {expected}, found {asked!r}") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{path.name}: expected YAML, found {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or "name" in tree:
        raise BadInput(f"{path.name}: expected a mapping of keys other than 'name', which the file's name gives")
    if "extends" not in tree:
        return tree
    base = tree.pop("extends")
    if base not in names() or base == path.stem:
        raise BadInput(f"{path.name}: extends: expected another one of {', '.join(names())}, found {base!r}")
    return _over(_tree(FOLDER / f"{base}.yaml", base), tree)


def _over(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` laid over `base`: mappings key by key, everything else whole."""
    both = {key: _over(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
            for key, value in own.items()}  # fmt: skip
    return base | both


def recipe(profile: Profile, task: str | None = None, way: str = "finetune") -> Finetune:
    """How an expert is tuned: on one task, at its own rate if it has one, or on any. `way`: a field of `TaskRates`.

    Key an expert's cache step by this and not by the profile: another task's learning rate is then no concern of it.
    """
    common, few = profile.finetune, profile.few_shot
    short = replace(common, steps=few.steps, warmup=min(common.warmup, few.steps))
    ways = {
        "finetune": common,
        "chain": replace(common, steps=profile.chain.steps, warmup=profile.chain.warmup, lr=profile.chain.lr),
        "lora": replace(common, lr=profile.lora.lr),
        "few_shot": replace(short, lr=few.lr),
        "few_shot_lora": replace(short, lr=few.lora_lr),
    }
    return replace(ways[way], lr=getattr(profile.lr_by_task, way).get(task, ways[way].lr))


def order(profile: Profile) -> tuple[str, ...]:
    """The tasks in the order of learning."""
    return profile.mtil.order or profile.data.tasks


def read(kind: Any, value: Any, file: str, where: tuple[str, ...]) -> Any:
    """Turn a YAML value into `kind`, or say which dotted key of which file is not what was expected."""
    expected = _describe(kind)
    if get_origin(kind) in (Union, types.UnionType):  # only ever "X or None"
        if value is None:
            return None
        kind = get_args(kind)[0]
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _read_record(kind, value, file, where)
    origin, options = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list):
        return tuple(read(options[0], item, file, (*where, str(i))) for i, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        said = {str(key): item for key, item in value.items() if item is not None}
        return {key: read(options[1], item, file, (*where, key)) for key, item in said.items()}
    if origin is Literal and value in options:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is kind:  # `type`, not isinstance: true is not the number 1
        return value
    hint = " (YAML wants a dot: 1.0e-4)" if kind is float and isinstance(value, str) else ""
    raise BadInput(f"{file}: {_dotted(where)}: expected {expected}, found {value!r}{hint}")


def _read_record(kind: type, value: Any, file: str, where: tuple[str, ...]) -> Any:
    """Read a dataclass whose keys must all be there and be the only ones, whatever it has as a default."""
    if not isinstance(value, dict):
        raise BadInput(f"{file}: {_dotted(where)}: expected a mapping, found {value!r}")
    hints = get_type_hints(kind)
    for key in value:
        if key not in hints:
            raise BadInput(f"{file}: {_dotted(where, key)}: expected one of {', '.join(hints)}; found {key!r}")
    for key, expected in hints.items():
        if key not in value:
            raise BadInput(f"{file}: {_dotted(where, key)}: expected {_describe(expected)}, found no such key")
    fields = {key: read(hints[key], value[key], file, (*where, key)) for key in hints}
    try:
        return kind(**fields)
    except BadInput as error:  # it begins with the field
        raise BadInput(f"{file}: {_dotted(where, error)}") from None


def _dotted(where: tuple[str, ...], *key: object) -> str:
    return ".".join(map(str, (*where, *key)))


def _describe(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "a text"}
    origin, options = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(options)}"
    if origin in (Union, types.UnionType):
        return f"{_describe(options[0])} or null"
    if origin is tuple:
        return "a list"
    return words.get(kind, "a mapping")

