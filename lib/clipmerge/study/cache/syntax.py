"""A module as its text says: top-level definitions, what each mentions, and what the module imports."""

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

Chain = tuple[str, ...]  # a dotted name, part by part
PACKAGE = Path(__file__).resolve().parents[2]
ON_IMPORT = "(on import)"  # the name under which a module's free statements stand
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_BLOCKS = (ast.If, ast.Try, ast.With, ast.For, ast.While)


@dataclass(frozen=True)
class Definition:
    """One function, class or constant: its digest and the names in it."""

    digest: str
    mentions: frozenset[Chain]
    imports: Mapping[str, Chain]  # made inside it
    decorators: tuple[Chain, ...]
    stores: frozenset[str]  # names that it fills by subscript: a decorator's registry
    runs: bool  # whenever the module is imported


@dataclass(frozen=True)
class Module:
    """What the text of a module defines and imports."""

    name: str
    definitions: Mapping[str, Definition]
    imports: Mapping[str, Chain]  # local name → absolute path
    imported: tuple[str, ...]  # modules that run when this one does


_known: dict[str, tuple[object, Module | None]] = {}


def module(name: str) -> Module | None:
    """Parse a module of a room; None if there is none of that name.

    Parsed once a process, and again if it was reloaded: the digest must be that of the code in memory.
    """
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if name in _known and (loaded is None or _known[name][0] is None or _known[name][0] is loaded):
        return _known[name][1]
    path = _path(name)
    found = _parse(name, path) if path else None
    _known[name] = (loaded, found)
    return found


def _path(name: str) -> Path | None:
    """The file of a module. Those of clipmerge are looked up on the disk: finding one by import would load its room."""
    first, *rest = name.split(".")
    if first == PACKAGE.name:
        here = PACKAGE.joinpath(*rest)
        return next((p for p in (here / "__init__.py", here.with_suffix(".py")) if p.is_file()), None)
    try:
        spec = find_spec(name)
    except (ModuleNotFoundError, ValueError):  # a plain module has no modules inside
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _parse(name: str, path: Path) -> Module:
    tree = ast.parse(path.read_text(encoding="utf8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    nodes: dict[str, list[ast.stmt]] = {}
    imports: dict[str, Chain] = {}
    for node in _statements(tree.body, but=("__main__",)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= _imports(node, package)
        else:
            for defined in _names(node):
                nodes.setdefault(defined, []).append(node)
    definitions = {defined: _definition(parts, package, defined == ON_IMPORT) for defined, parts in nodes.items()}
    return Module(name, definitions, imports, tuple(dict.fromkeys(_modules(tree, package))))


def _statements(body: list[ast.stmt], but: tuple[str, ...]) -> Iterator[ast.stmt]:
    """Top-level statements, also within if, try, with, loops; no docstrings, no ``if`` that tests a word of `but`."""
    for node in body:
        if isinstance(node, ast.If) and any(word in ast.dump(node.test) for word in but):
            continue
        if isinstance(node, _BLOCKS):
            parts = [getattr(node, each, []) for each in ("body", "orelse", "finalbody")]
            parts += [handler.body for handler in getattr(node, "handlers", [])]
            yield from (inner for part in parts for inner in _statements(part, but))
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield node


def _names(node: ast.stmt) -> list[str]:
    """The names a statement defines; other statements run on import and have one name together."""
    if isinstance(node, _DEFINITIONS):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    found = [each.id for target in targets if target for each in ast.walk(target) if isinstance(each, ast.Name)]
    plain = isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and found
    return found if plain else [ON_IMPORT]


def _definition(nodes: list[ast.stmt], package: str, runs: bool) -> Definition:
    mentions: set[Chain] = set()
    imports: dict[str, Chain] = {}
    stores: set[str] = set()
    decorators: list[Chain] = []
    for node in nodes:
        _without_docstrings(node)
        outer = getattr(node, "decorator_list", [])
        arguments = [part for each in outer if isinstance(each, ast.Call) for part in (*each.args, *each.keywords)]
        for part in (*(part for part in _parts(node) if part not in outer), *arguments):
            said, made = references(part, package)
            mentions |= said
            imports |= made
        decorators += [_chain(each.func if isinstance(each, ast.Call) else each) for each in outer]
        stores |= {
            each.value.id
            for each in ast.walk(node)
            if isinstance(each, ast.Subscript) and isinstance(each.ctx, ast.Store) and isinstance(each.value, ast.Name)
        }
    text = "\n".join(ast.dump(node) for node in nodes)
    short = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Definition(short, frozenset(mentions), imports, tuple(filter(None, decorators)), frozenset(stores), runs)


def references(tree: ast.AST, package: str) -> tuple[set[Chain], dict[str, Chain]]:
    """Every dotted name that a piece of code mentions, and what it imports, wherever that stands.

    Annotations of functions are left out: what they reach is not run by a call.
    """
    said: set[Chain] = set()
    made: dict[str, Chain] = {}
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        chain = _chain(node)
        if chain:
            said.add(chain)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made |= _imports(node, package)
        else:
            waiting += _parts(node)
    return said, made


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    skipped = {"returns", "annotation"} if isinstance(node, (*_FUNCTIONS, ast.arg)) else set()
    for field, value in ast.iter_fields(node):
        if field not in skipped:
            yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, ast.AST))


def _chain(node: ast.AST) -> Chain:
    """``a.b.c`` as its parts; nothing for what does not begin with a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()


def _imports(node: ast.Import | ast.ImportFrom, package: str) -> dict[str, Chain]:
    """What an import binds: local name → absolute path."""
    if isinstance(node, ast.Import):
        return {a.asname or a.name.partition(".")[0]: _bound(a) for a in node.names}
    base = _base(node, package)
    return {alias.asname or alias.name: (*base, alias.name) for alias in node.names}


def _bound(alias: ast.alias) -> Chain:
    """``import a.b`` binds a, ``import a.b as c`` binds a.b."""
    return tuple(alias.name.split(".")) if alias.asname else (alias.name.partition(".")[0],)


def _base(node: ast.ImportFrom, package: str) -> Chain:
    parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return (*parents, *(node.module.split(".") if node.module else []))


def _modules(tree: ast.Module, package: str) -> Iterator[str]:
    """Modules that are loaded with this one (or may be: a name imported from a package can be a module of it).

    A front page that walks through its package (``pkgutil.iter_modules``) loads all of it.
    """
    if "iter_modules" in {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}:
        yield from (f"{package}.{path.stem}" for path in sorted(_path(package).parent.glob("[!_]*.py")))
    for node in _statements(tree.body, but=("__main__", "TYPE_CHECKING")):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(_base(node, package))
            yield from (name for alias in node.names for name in (base, f"{base}.{alias.name}"))


def _without_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, _DEFINITIONS) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
