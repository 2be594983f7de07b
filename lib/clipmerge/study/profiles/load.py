"""Profiles: every number an experiment depends on, read strictly from one YAML file into frozen dataclasses.

``smoke`` checks the code, ``laptop`` is what the committed figures show, ``paper`` is the papers' own scale. A key that
is unknown, missing or of the wrong type is refused with its dotted name: a typo must never mean "use the default". A
file that begins with ``extends: laptop`` need only say what is different; ``overnight`` is made so.
"""

import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from clipmerge.errors import BadInput
from clipmerge.study.profiles.settings import Finetune, Profile

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The profiles that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(name_or_path: str | Path) -> Profile:
    """Read a profile by name (``laptop``) or from a YAML file of the reader's own (``mine.yaml``)."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name_or_path}.yaml"
    profile = _read(Profile, {"name": path.stem, **_tree(path, str(name_or_path))}, path.name, ())
    _check(profile, path.name)
    return profile


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


def recipe(profile: Profile, task: str) -> Finetune:
    """The fine-tuning recipe of one task, its learning rate resolved.

    Key an expert's cache step by this and not by ``profile.finetune``: another task's learning rate is then no concern
    of it.
    """
    return replace(profile.finetune, lr=profile.finetune.lr_by_task.get(task, profile.finetune.lr), lr_by_task={})


def plain_recipe(profile: Profile, task: str | None = None) -> dict[str, Any]:
    """The fine-tuning recipe of one task as plain values, for a step's config; without `task`, at the common rate."""
    plain = asdict(profile.finetune if task is None else recipe(profile, task))
    del plain["lr_by_task"]
    return plain


def order(profile: Profile) -> tuple[str, ...]:
    """The tasks in the order of learning."""
    return profile.mtil.order or profile.data.tasks


def subset(profile: Profile, *dotted: str) -> dict[str, Any]:
    """The named parts of a profile as plain values, for cache keys: ``subset(p, "model", "data.per_class_train")``."""
    found = {}
    for name in dotted:
        value: Any = profile
        for part in name.split("."):
            if not is_dataclass(value) or part not in {f.name for f in fields(value)}:
                raise BadInput(f"profile {profile.name}: expected a key of a profile, found {name!r}")
            value = getattr(value, part)
        found[name] = asdict(value) if is_dataclass(value) else value
    return found


def _read(kind: Any, value: Any, file: str, where: tuple[str, ...]) -> Any:
    """Turn a YAML value into `kind`, or say which dotted key of which file is not what was expected."""
    expected = _describe(kind)
    if get_origin(kind) in (Union, types.UnionType):  # only ever "X or None"
        if value is None:
            return None
        kind = get_args(kind)[0]
    if is_dataclass(kind):
        return _read_record(kind, value, file, where)
    origin, options = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(options[0], item, file, (*where, str(i))) for i, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {str(key): _read(options[1], item, file, (*where, str(key))) for key, item in value.items()}
    if origin is Literal and value in options:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is kind:  # `type`, not isinstance: true is not the number 1
        return value
    hint = " (YAML wants a dot: 1.0e-4)" if kind is float and isinstance(value, str) else ""
    raise BadInput(f"{file}: {'.'.join(where)}: expected {expected}, found {value!r}{hint}")


def _read_record(kind: type, value: Any, file: str, where: tuple[str, ...]) -> Any:
    """Read a dataclass whose keys must all be there and be the only ones."""
    here = ".".join(where) or "top level"
    if not isinstance(value, dict):
        raise BadInput(f"{file}: {here}: expected a mapping, found {value!r}")
    hints = get_type_hints(kind)
    for key in value:
        if key not in hints:
            raise BadInput(f"{file}: {'.'.join((*where, str(key)))}: expected one of {', '.join(hints)}; found {key!r}")
    for key in hints:
        if key not in value:
            raise BadInput(f"{file}: {'.'.join((*where, key))}: expected {_describe(hints[key])}, found no such key")
    return kind(**{key: _read(hints[key], value[key], file, (*where, key)) for key in hints})


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


def _check(profile: Profile, file: str) -> None:
    """What types cannot say."""
    tasks, recipe_ = set(profile.data.tasks), profile.finetune
    rules = {
        "data.tasks": (len(tasks) == len(profile.data.tasks) > 0, "at least one task and each once"),
        "seeds": (len(profile.seeds) > 0, "at least one seed"),
        "workers": (profile.workers > 0, "at least 1"),
        "mtil.order": (sorted(order(profile)) == sorted(tasks), "nothing or a permutation of data.tasks"),
        "mtil.k": (profile.mtil.k >= 0, "at least 0"),
        "finetune.lr_by_task": (tasks.issuperset(recipe_.lr_by_task), "only tasks of data.tasks"),
        "finetune.batch": (recipe_.batch > 0, "at least 1"),
        "finetune.warmup": (0 <= recipe_.warmup <= recipe_.steps, "between 0 and finetune.steps"),
        "finetune.classes": (recipe_.classes is None or recipe_.classes > 1, "null or at least 2"),
        "finetune.scale_min": (0 < recipe_.scale_min <= 1, "above 0 and at most 1"),
    }
    for key, (holds, expected) in rules.items():
        if not holds:
            raise BadInput(f"{file}: {key}: expected {expected}, found {subset(profile, key)[key]!r}")
