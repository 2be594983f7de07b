"""The answers of the exercises as a script: their code, after the cells of the notebook that it needs."""

import ast
import itertools
import re
import textwrap
from collections.abc import Iterator

from nbformat import NotebookNode

from clipmerge.book import notebooks

FOLDED = re.compile(r"<details><summary>Answer</summary>(.*?)</details>", re.DOTALL)
FENCED = re.compile(r"^ *```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def answers(nb: NotebookNode) -> Iterator[str]:
    """The text of every folded answer."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            yield from FOLDED.findall(cell.source)


def blocks(nb: NotebookNode) -> list[str]:
    """The Python of every answer."""
    return [textwrap.dedent(code) for answer in answers(nb) for code in FENCED.findall(answer)]


def script(nb: NotebookNode, out: str) -> str:
    """What runs all answers of a notebook, each on its own names, with figures and tables going to the folder `out`.

    A cell is needed if it binds a name that is read later on, by an answer or by a cell that is needed itself.
    """
    found = blocks(nb)
    trees = [ast.parse(code) for code in found]
    wanted = {name for tree in trees for name in _read(tree) - {node.id for node in ast.walk(tree) if _stored(node)}}
    kept: list[str] = []
    for cell in reversed(notebooks.code_cells(nb)):
        tree = ast.parse(cell.source)
        parameters = "parameters" in notebooks.tags(cell)
        if parameters or _bound(tree) & wanted:
            wanted = wanted - _made(tree) | _read(tree)
            kept.insert(0, f"{cell.source}\nout = {out!r}" if parameters else cell.source)
    runs = [f"def _answer():\n{textwrap.indent(code, '    ')}\n_answer()" for code in found]
    return "\n\n".join([*kept, *runs]) + "\n"


def _read(tree: ast.AST) -> set[str]:
    """Names whose value is asked for, wherever that is."""
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    grown = (node.target for node in ast.walk(tree) if isinstance(node, ast.AugAssign))
    return loaded | {target.id for target in grown if _named(target)}


def _made(tree: ast.Module) -> set[str]:
    """Names that a cell gives a value of its own, whatever they were before."""
    made = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            made |= {name.id for target in node.targets for name in ast.walk(target) if _stored(name)}
        elif isinstance(node, ast.FunctionDef):
            made.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return made


def _bound(tree: ast.Module) -> set[str]:
    """Those names, and all that a cell changes: loop variables, contents, attributes, what a method is called on."""
    names = _made(tree)
    outside = (statement for statement in tree.body if not isinstance(statement, ast.FunctionDef))
    for node in itertools.chain.from_iterable(map(_open, outside)):
        if _stored(node):
            names.add(node.id)
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= _read(node.value)
        elif isinstance(node, ast.Expr) and isinstance(getattr(node.value, "func", None), ast.Attribute):
            names |= _read(node.value.func.value)  # model.load_state_dict(…) changes model
    return names


def _open(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what is in it, but for what has names of its own."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.comprehension | ast.Lambda):
            yield from _open(child)


def _named(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


def _stored(node: ast.AST) -> bool:
    return _named(node) and isinstance(node.ctx, ast.Store)
