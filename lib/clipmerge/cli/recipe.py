"""Recipe files: `clipmerge merge recipe.yaml`, in mergekit's keys. Every key is either heeded or refused."""

from pathlib import Path

from clipmerge.cli import words
from clipmerge.errors import BadInput

KEYS = {"merge_method", "base_model", "models", "parameters", "dtype", "out", "seed"}


def read(path: Path) -> dict[str, object]:
    """What a recipe asks for: technique, base, experts, weights, options, dtype, out, seed (those that it gives).

    Paths are relative to the recipe. Raises BadInput naming the key at fault.
    """
    import yaml  # only recipes need it

    try:
        content = yaml.safe_load(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: expected a recipe, found nothing there") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: expected YAML, found {' '.join(str(error).split())}") from None
    _keys(path, content, KEYS, {"merge_method", "base_model", "models"})
    models = content["models"]
    if not isinstance(models, list) or not models:
        raise BadInput(f"{path}: models should be a list of models, found {models!r}")
    for model in models:
        _keys(path, model, {"model", "parameters"}, {"model"})
        _keys(path, model.get("parameters", {}), {"weight"}, set())
    weights = [model.get("parameters", {}).get("weight") for model in models]
    if len({weight is None for weight in weights}) == 2:
        raise BadInput(f"{path}: expected a weight for every model or for none")
    for weight in weights:
        if not isinstance(weight, int | float | None):
            raise BadInput(f"{path}: weight should be a number, found {weight!r}")
    technique, options = words.field(str(content["merge_method"])), content.get("parameters", {})
    _keys(path, options, None, set())
    found = {name: content[name] for name in ("dtype", "seed") if name in content}
    found |= {"weights": weights} if weights[0] is not None else {}
    found |= {"out": Path(_beside(path, content["out"]))} if "out" in content else {}
    experts = [_beside(path, model["model"]) for model in models]
    return (
        found
        | {"technique": technique, "base": _beside(path, content["base_model"]), "experts": experts}
        | {"options": {name.replace("-", "_"): value for name, value in options.items()}}
    )


def _keys(path: Path, found: object, known: set[str] | None, needed: set[str]) -> None:
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise BadInput(f"{path}: expected keys and values, found {found!r}")
    if unknown := sorted(found.keys() - known) if known is not None else []:
        raise BadInput(f"{path}: expected keys among {', '.join(sorted(known))}, found {unknown[0]!r}")
    if missing := sorted(needed - found.keys()):
        raise BadInput(f"{path}: expected the key {missing[0]}, found only {', '.join(found) or 'nothing'}")


def _beside(path: Path, reference: object) -> str:
    place = path.parent / str(reference)
    return str(reference) if ":" in str(reference) else str(place)
