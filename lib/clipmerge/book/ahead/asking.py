"""Run a statement so that all it asks for is noted, although the first step it asks for has no result yet.

Every call stands in a wrapper. A call that asks for steps gives an `Unread` in place of its result, so the other calls
of the statement, and the other turns of its loops, ask for theirs. Whoever then uses an `Unread` ends (`Planned`).
"""

import ast
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from clipmerge.study.cache.planned import Asked, Planned

WRAPPER = "ask_for_steps"  # no name of a reader's


class Unread:
    """What stands for a result that nobody has computed."""

    def _use(self, *_args: object, **_named: object) -> NoReturn:
        raise Planned("a result that is not there is used")

    __getattr__ = __getitem__ = __setitem__ = __call__ = __iter__ = __len__ = __bool__ = __contains__ = _use
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _use
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __and__ = __or__ = __neg__ = __invert__ = _use
    __hash__ = object.__hash__


class _Wrapped(ast.NodeTransformer):
    """Turns ``f(x)`` into ``ask_for_steps(lambda: f(x))``."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node  # `super()` means nothing within a lambda

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(part, ast.Yield | ast.YieldFrom | ast.Await | ast.NamedExpr) for part in ast.walk(node)):
            return node  # these mean something else within a lambda
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        return ast.Call(ast.Name(WRAPPER, ast.Load()), [ast.Lambda(nothing, node)], [])


def run(one: ast.stmt, scope: dict[str, Any], asked: Collection[Asked]) -> None:
    """Run a statement in `scope`, where `asked` grows with what is asked for (`planned.collecting`)."""

    def ask(call: Callable[[], Any]) -> Any:
        before = len(asked)
        try:
            return call()
        except Exception as error:  # whatever a reader's function may raise when it is given an `Unread`
            if isinstance(error, Planned) or len(asked) > before:
                return Unread()
            raise

    scope[WRAPPER] = ask
    tree = ast.fix_missing_locations(_Wrapped().visit(ast.parse(ast.unparse(one))))
    exec(compile(tree, "<plan>", "exec"), scope)
