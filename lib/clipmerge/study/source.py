"""The code behind a step: a digest for every clipmerge module that its function can reach.

What counts is what runs: modules are parsed, docstrings dropped (comments and layout go with parsing), and the imports
found in the text are followed, wherever in a module they stand. Rooms import one way only, so nothing in ``book`` ever
invalidates a result, and a step whose function lives in ``clip`` is untouched by changes in ``study``.
"""

import ast
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from clipmerge.errors import BadInput

# These move results about but do not make them: editing them must not cost an hour of training.
PLUMBING = {
    "clipmerge",
    "clipmerge.errors",
    "clipmerge.files",
    "clipmerge.paths",
    "clipmerge.study.engine",
    "clipmerge.study.profiles",
    "clipmerge.study.sandbox",
    "clipmerge.study.settings",
    "clipmerge.study.source",
    "clipmerge.study.steps",
    "clipmerge.study.store",
}


@dataclass(frozen=True)
class _Module:
    spec: ModuleSpec
    digest: str
    imports: tuple[str, ...]


_known: dict[str, _Module] = {}


def digests(fn: Callable) -> dict[str, str]:
    """Digest by module name, for the module of `fn` and all of clipmerge it imports, directly or not."""
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", repr(fn))
    if module in (None, "__main__") or "<" in name:
        raise BadInput(f"step function: expected one defined at the top level of a module, found {name} of {module}")
    rooms = {"clipmerge", module.partition(".")[0]}
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current in found or current in PLUMBING or current.partition(".")[0] not in rooms:
            continue
        parsed = _parse(current)
        if parsed is not None:
            found[current] = parsed.digest
            waiting += parsed.imports
    return dict(sorted(found.items()))


def _parse(name: str) -> _Module | None:
    """Parse a module once a process, and again if it was reloaded: the digest must be that of the code in memory."""
    loaded, known = sys.modules.get(name), _known.get(name)
    if known and (loaded is None or loaded.__spec__ is known.spec):
        return known
    spec = find_spec(name)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    tree = _without_docstrings(ast.parse(Path(spec.origin).read_text(encoding="utf8")))
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]
    _known[name] = _Module(spec, digest, tuple(_imports(tree, package)))
    return _known[name]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return tree


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Full names of what a module imports; ``from a import b`` means module ``a.b`` if there is one, else ``a``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if _is_module(base, alias.name) else base


def _is_module(package: str, name: str) -> bool:
    try:
        return find_spec(f"{package}.{name}") is not None
    except ModuleNotFoundError:  # `package` is a plain module: `name` is something inside it
        return False
