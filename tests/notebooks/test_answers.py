"""Answers to the exercises: their code parses, speaks of names that exist, and holds after the cells it needs.

An answer is a folded `<details>` block. Its Python is fenced, so that a reader can copy it into a new cell at the end
of the notebook. A block whose every name is its own needs no notebook: it is executed here, and its asserts must hold.
"""

import ast
import builtins
import os
import re
import subprocess
import sys

import nbformat.v4 as v4
import pytest

from clipmerge.book import notebooks

from .answers import answers, blocks, script

MAGIC = re.compile(r"^\s*[%!].*$", re.MULTILINE)
TOLD = "<details><summary>Answer</summary>\n\n```python\nassert double(x) == {value}\n```\n\n</details>"
BINDERS = (ast.FunctionDef, ast.ClassDef)


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


@pytest.mark.parametrize("path", notebooks.every(), ids=lambda path: path.stem)
def test_answers_hold_after_the_cells_they_need(path, tmp_path):
    nb = notebooks.read(path)
    if blocks(nb):
        done = run(script(nb, str(tmp_path / "figures")), tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("value", "code"), [(3, 0), (4, 1)])
def test_a_wrong_answer_fails_and_nothing_runs_that_is_not_needed(value, code, tmp_path):
    parameters = 'profile = "laptop"\nseed = 0\nout = ""'
    cells = [parameters, "x = 1.5", "1 / 0", "def double(y):\n    return 2 * y", "x = 1.5"]
    nb = v4.new_notebook(cells=[*map(v4.new_code_cell, cells), v4.new_markdown_cell(TOLD.format(value=value))])
    nb.cells[0].metadata["tags"] = ["parameters"]
    text = script(nb, "elsewhere")
    assert "1 / 0" not in text and text.count("x = 1.5") == 1 and "out = 'elsewhere'" in text
    assert run(text, tmp_path).returncode == code


def run(text, folder):
    """Run a script in a process of its own, without a window."""
    path = folder / "answers.py"
    path.write_text(text, encoding="utf8")
    env = os.environ | {"MPLBACKEND": "agg"}
    return subprocess.run([sys.executable, path], capture_output=True, text=True, env=env)


def test_some_stand_alone_and_all_claim_something():
    assert len(ALONE) >= 8
    assert [each.id for each in EVERY if "assert" not in each.values[1]] == []


@pytest.mark.parametrize(
    ("code", "names"),
    [("import torch\nx = torch.ones(2)\nassert [y for y in x]", set()), ("f = lambda a: a + b", {"b"}), ("x", {"x"})],
)
def test_free_names(code, names):
    assert free(code) == names
