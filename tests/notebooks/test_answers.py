"""Answers to the exercises: their code parses, speaks of names that exist, and runs where it stands alone.

An answer is a folded `<details>` block. Its Python is fenced, so that a reader can copy it into a new cell at the end
of the notebook. A block whose every name is its own needs no notebook: it is executed here, and its asserts must hold.
"""

import ast
import builtins
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from clipmerge.book import notebooks

FOLDED = re.compile(r"<details><summary>Answer</summary>(.*?)</details>", re.DOTALL)
FENCED = re.compile(r"^ *```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
MAGIC = re.compile(r"^\s*[%!].*$", re.MULTILINE)
BINDERS = (ast.FunctionDef, ast.ClassDef)


def answers(nb) -> Iterator[str]:
    """The text of every folded answer."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            yield from FOLDED.findall(cell.source)


def blocks(nb) -> list[str]:
    """The Python of every answer."""
    return [textwrap.dedent(code) for answer in answers(nb) for code in FENCED.findall(answer)]


def bound(tree: ast.AST) -> set[str]:
    """Names that a piece of code makes: assigned, imported, defined, or arguments."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, BINDERS):
            found.add(node.name)
    return found


def free(code: str) -> set[str]:
    """Names that a block uses and does not make."""
    tree = ast.parse(code)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return used - bound(tree) - set(dir(builtins))


EVERY = [
    pytest.param(path, code, id=f"{path.stem}-{number}")
    for path in notebooks.every()
    for number, code in enumerate(blocks(notebooks.read(path)), 1)
]
ALONE = [each for each in EVERY if not free(each.values[1])]


@pytest.mark.parametrize("path", notebooks.every(), ids=lambda path: path.stem)
def test_every_answer_is_found(path):
    """As many as are folded; Markdown inside is rendered only after an empty line."""
    nb = notebooks.read(path)
    found = list(answers(nb))
    assert len(found) == sum(cell.source.count("<details>") for cell in nb.cells if cell.cell_type == "markdown")
    assert sum(answer.count("```python") for answer in found) == len(blocks(nb))


@pytest.mark.parametrize(("path", "code"), EVERY)
def test_names_are_those_of_the_notebook(path, code):
    nb = notebooks.read(path)
    sources = [MAGIC.sub("", cell.source) for cell in notebooks.code_cells(nb)]
    assert free(code) - set().union(*(bound(ast.parse(source)) for source in sources)) == set()


@pytest.mark.parametrize(("path", "code"), ALONE)
def test_what_stands_alone_holds(path, code):
    exec(compile(code, path.name, "exec"), {"__name__": "answer"})


def test_answers_of_the_toy_notebook_hold_after_its_cells(tmp_path):
    """Notebook 21 works on eight numbers and trains nothing, so all of it runs, then its answers."""
    (path,) = [path for path in notebooks.every() if path.stem.startswith("21_")]
    nb = notebooks.read(path)
    first = f'profile, seed, out = "smoke", 0, {str(tmp_path)!r}'
    cells = [first if "parameters" in notebooks.tags(cell) else cell.source for cell in notebooks.code_cells(nb)]
    script = tmp_path / "answers.py"
    script.write_text("\n".join([*cells, *blocks(nb)]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "agg"}
    )
    assert done.returncode == 0, done.stderr


def test_some_stand_alone_and_all_claim_something():
    assert len(ALONE) >= 8
    assert [each.id for each in EVERY if "assert" not in each.values[1]] == []


@pytest.mark.parametrize(
    ("code", "names"),
    [("import torch\nx = torch.ones(2)\nassert [y for y in x]", set()), ("f = lambda a: a + b", {"b"}), ("x", {"x"})],
)
def test_free_names(code, names):
    assert free(code) == names
