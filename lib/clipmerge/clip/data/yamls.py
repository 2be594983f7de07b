"""Manifests as files: YAML that is parsed and held to its schema in ``data_manifests/schema``."""

import functools
import reprlib
from collections.abc import Callable
from pathlib import Path

import fastjsonschema
import yaml

from clipmerge import files, paths
from clipmerge.errors import BadInput


def read(path: Path, schema: str) -> dict:
    """Parse `path` and validate it against ``data_manifests/schema/<schema>``."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise BadInput(f"{path.name}: expected a manifest in {path.parent}, found none") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: expected YAML, found {str(error).splitlines()[0]}") from None
    try:
        _rules(paths.manifests() / "schema" / schema)(value, name_prefix="$")
    except fastjsonschema.JsonSchemaValueException as error:
        raise BadInput(f"{path}: {error.message}, found {reprlib.repr(error.value)}") from None
    return value


@functools.cache
def _rules(schema: Path) -> Callable:
    return fastjsonschema.compile(files.read_json(schema))
