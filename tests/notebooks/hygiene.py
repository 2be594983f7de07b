"""What a committed notebook must be like, as checks that each say what is wrong; `test_hygiene` runs them on all.

nbval compares nothing in a cell without stored output and calls that passed, so `compares` is the check that keeps the
others honest.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from nbformat import NotebookNode

from clipmerge import paths
from clipmerge.book import notebooks
from clipmerge.errors import BadInput

CHECKED = "nbval-check-output"  # the tag of a cell that nbval compares
HIDDEN = "hide-input"  # the tag of a cell that is folded
DRAWS = re.compile(r"\bplt\.(?:subplots|figure)\(|\bfigures\.save\(|\btables\.(?:save|show)\(")
MAX_LINES, MAX_CELLS, MAX_BYTES, MIN_COMPARED = 15, 40, 1_000_000, 3
HOME = re.compile(r"/(?:home|Users)/\w+|/root\b|/tmp/\w+|[A-Z]:\\\\?Users", re.IGNORECASE)
SECRET = re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|sk-)[A-Za-z0-9_]{20,}|\bAKIA[A-Z0-9]{16}\b")
RELATIVE = re.compile(r"^\.{1,2}/|^~/|^[\w./-]+\.(?:csv|jsonl?|png|pdf|svg|safetensors|ya?ml|npz?|txt)$")

APART = ("bench_merge",)  # made by `make bench`, not by a notebook

Check = Callable[[Path, NotebookNode], Iterator[str]]


def has_parameters(path: Path, nb: NotebookNode) -> Iterator[str]:
    """One parameters cell: three literals, profile, seed and out."""
    try:
        notebooks.parameters(nb, path.name)
    except BadInput as error:
        yield str(error)


def compares(path: Path, nb: NotebookNode) -> Iterator[str]:
    """At least three cells that nbval really compares: tagged, executed, with output other than a picture."""
    tagged = [cell for cell in notebooks.code_cells(nb) if CHECKED in notebooks.tags(cell)]
    if len(tagged) < MIN_COMPARED:
        yield f"expected at least {MIN_COMPARED} cells tagged {CHECKED}, found {len(tagged)}"
    for cell in tagged:
        text = any(output.get("text") or "text/plain" in output.get("data", {}) for output in cell.outputs)
        if cell.execution_count is None or not text:
            yield f"cell {_first_line(cell)}: tagged {CHECKED} but stores no text output to compare with"


def has_run_cleanly(path: Path, nb: NotebookNode) -> Iterator[str]:
    """No stored error."""
    for cell in notebooks.code_cells(nb):
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"cell {_first_line(cell)}: stores an error"


def defines_no_class(path: Path, nb: NotebookNode) -> Iterator[str]:
    """Classes belong to the library."""
    for cell in notebooks.code_cells(nb):
        if any(isinstance(node, ast.ClassDef) for node in ast.walk(_tree(cell))):
            yield f"cell {_first_line(cell)}: defines a class"


def names_no_place(path: Path, nb: NotebookNode) -> Iterator[str]:
    """No relative path in code, no home folder anywhere, nothing that looks like a token."""
    for cell in nb.cells:
        if cell.cell_type == "code":
            for node in ast.walk(_tree(cell)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and RELATIVE.search(node.value):
                    yield f"cell {_first_line(cell)}: relative path {node.value!r}"
        said = cell.source + "".join(_texts(cell))
        for pattern, what in ((HOME, "absolute path"), (SECRET, "what looks like a token")):
            if found := pattern.search(said):
                yield f"cell {_first_line(cell)}: {what} {found[0]!r}"


def folds_plumbing(path: Path, nb: NotebookNode) -> Iterator[str]:
    """What draws or saves is folded, for the site (tag hide-input) and in JupyterLab alike; method code is not."""
    for cell in notebooks.code_cells(nb):
        folded = HIDDEN in notebooks.tags(cell)
        if folded != bool(cell.metadata.get("jupyter", {}).get("source_hidden")):
            yield f"cell {_first_line(cell)}: expected tag {HIDDEN} and jupyter.source_hidden together, found one"
        if not folded and DRAWS.search(cell.source):
            yield f"cell {_first_line(cell)}: draws or saves, but is not tagged {HIDDEN}"


def shows_whole_figures(path: Path, nb: NotebookNode) -> Iterator[str]:
    """A figure that a later cell completes and shows is not shown half done before; no picture is stored twice."""
    maker, pictures = None, set()
    for cell in notebooks.code_cells(nb):
        body = _tree(cell).body
        if "fig" in _assigned(body):
            maker = cell
        elif body and ast.unparse(body[-1]) == "fig" and maker and "plt.close(fig)" not in maker.source:
            yield f"cell {_first_line(maker)}: a later cell shows its figure again: close it with plt.close(fig)"
        for output in cell.outputs:
            if (picture := output.get("data", {}).get("image/png")) in pictures:
                yield f"cell {_first_line(cell)}: stores a picture that was shown before"
            pictures |= {picture} - {None}


def is_small(path: Path, nb: NotebookNode) -> Iterator[str]:
    """Cells of at most 15 lines, at most 40 cells, at most 1 MB."""
    for cell in notebooks.code_cells(nb):
        if (lines := len(cell.source.splitlines())) > MAX_LINES:
            yield f"cell {_first_line(cell)}: {lines} lines, at most {MAX_LINES} are allowed"
    if len(nb.cells) > MAX_CELLS:
        yield f"{len(nb.cells)} cells, at most {MAX_CELLS} are allowed"
    if (size := path.stat().st_size) > MAX_BYTES:
        yield f"{size:,} bytes, at most {MAX_BYTES:,} are allowed"


def is_normal(path: Path, nb: NotebookNode) -> Iterator[str]:
    """Nothing in it that `notebooks.normalise` would change."""
    if notebooks.normalise(nb) != nb:
        yield "not in normal form: store outputs with `make refresh` only"


def outputs_exist(path: Path, nb: NotebookNode) -> Iterator[str]:
    """Every declared figure or table is committed."""
    for id in notebooks.outputs(nb):
        for kind in ("csv", "json"):
            if not (paths.figures("laptop") / f"{id}.{kind}").exists():
                yield f"declares {id}, but figures/laptop/{id}.{kind} does not exist"


CHECKS: tuple[Check, ...] = (
    has_parameters, compares, has_run_cleanly, defines_no_class, names_no_place, folds_plumbing,
    shows_whole_figures, is_small, is_normal, outputs_exist,
)  # fmt: skip


def orphans(folder: Path) -> list[str]:
    """Artefacts in a folder that no notebook declares and nothing else makes."""
    return sorted(path.stem for path in folder.glob("*.json") if not (path.stem in APART or notebooks.maker(path.stem)))


def _tree(cell: NotebookNode) -> ast.Module:
    return ast.parse(re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE))


def _assigned(body: list[ast.stmt]) -> set[str]:
    targets = [target for statement in body if isinstance(statement, ast.Assign) for target in statement.targets]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def _texts(cell: NotebookNode) -> Iterator[str]:
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


def _first_line(cell: NotebookNode) -> str:
    return repr((cell.source.splitlines() or [""])[0][:60])
