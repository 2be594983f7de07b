"""The part of a notebook that asks for steps: those statements of its cells, and what they hang on.

A plan runs this part and nothing else. A statement asks for steps if a name in it leads to `store.build` or `store.get`
(through the library, or through a function that an earlier cell defines); what it hangs on is followed backwards.
"""

import ast
import re
from collections.abc import Iterable, Sequence
from functools import cache

from clipmerge.study.cache import codehash

DOORS = {("clipmerge.study.cache.store", name) for name in ("build", "get")}
LONG = ast.FunctionDef | ast.ClassDef


def planning(sources: Sequence[str]) -> list[ast.stmt]:
    """The statements of code cells that a plan has to run, in order. What `setup` gives is not among them."""
    plain = (re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE) for source in sources)
    statements = [one for source in plain for one in ast.parse(source).body]
    imports = tuple(ast.unparse(one) for one in statements if isinstance(one, ast.Import | ast.ImportFrom))
    doors: set[str] = set()  # functions of the notebook that ask for steps
    chosen = []
    for one in statements:
        asks = not isinstance(one, ast.Import | ast.ImportFrom) and _asks(one, imports, doors)
        if asks and isinstance(one, LONG):
            doors.add(one.name)
        chosen.append(asks and not isinstance(one, LONG))
    needed: set[str] = set()
    kept = []
    for one, asks in zip(reversed(statements), reversed(chosen), strict=True):
        if (asks or needed & defines(one)) and not _calls_setup(one):
            needed |= uses(one)
            kept.append(one)
    return kept[::-1]


def defines(one: ast.stmt) -> set[str]:
    """The names that a statement binds, or whose values it changes."""
    if isinstance(one, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in one.names}
    if isinstance(one, LONG):
        return {one.name}
    loops = [node.target for node in ast.walk(one) if isinstance(node, ast.comprehension)]
    inner = {id(node) for target in loops for node in ast.walk(target)}  # a comprehension's variable ends with it
    stored = (node for node in ast.walk(one) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    found = {node.id for node in stored if id(node) not in inner}
    for node in ast.walk(one):
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= _root(node)
    if isinstance(one, ast.Expr) and isinstance(one.value, ast.Call) and isinstance(one.value.func, ast.Attribute):
        found |= _root(one.value.func)  # plans.append(...)
    return found


def uses(one: ast.stmt) -> set[str]:
    """The names that a statement reads."""
    return {node.id for node in ast.walk(one) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)} | (
        {one.target.id} if isinstance(one, ast.AugAssign) and isinstance(one.target, ast.Name) else set()
    )


def _root(node: ast.AST) -> set[str]:
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _asks(one: ast.stmt, imports: tuple[str, ...], doors: Iterable[str]) -> bool:
    if uses(one) & set(doors):
        return True
    roots = {id(node.value) for node in ast.walk(one) if isinstance(node, ast.Attribute)}  # `a.b` is not all of `a`
    whole = (node for node in ast.walk(one) if isinstance(node, ast.Name | ast.Attribute) and id(node) not in roots)
    chains = {ast.unparse(node) for node in whole}
    names = {chain.partition(".")[0] for chain in chains}
    wanted = tuple(text for text in imports if defines(ast.parse(text).body[0]) & names)
    return any(_leads(chain, wanted) for chain in chains if re.fullmatch(r"[\w.]+", chain))


@cache
def _leads(chain: str, imports: tuple[str, ...]) -> bool:
    """Whether a dotted name, under these imports, leads to the store. The command line, which runs all there is, is
    no way to ask for steps."""
    if chain.partition(".")[0] == "cli":
        return False
    return bool(DOORS & codehash.met([*imports, chain]))


def _calls_setup(one: ast.stmt) -> bool:
    call = getattr(one, "value", None)
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "setup"
