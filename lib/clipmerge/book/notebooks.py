"""The committed notebooks: strict parameters, what they declare, a normal form, navigation and cost box.

Metadata a notebook carries: ``clipmerge.outputs``, the ids of the figures and tables it makes, and optionally
``clipmerge.manifests``, patterns of the files below ``data_manifests/`` it depends on (default: all), and
``clipmerge.reads``, patterns of the artefacts of other notebooks that it reads (default: none). Two tags mark Markdown
cells that `refresh` writes: ``navigation`` and ``cost``.

    python -m clipmerge.book.notebooks refresh     # store the outputs of the last laptop run in notebooks/
"""

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from clipmerge import files, paths
from clipmerge.book import costs
from clipmerge.errors import BadInput

PARAMETERS = {"profile": str, "seed": int, "out": str}
ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")
WIDGET = "application/vnd.jupyter.widget-view+json"


def every() -> list[Path]:
    """The committed notebooks in number order."""
    return sorted(paths.notebooks().glob("[0-9][0-9]_*.ipynb"))


def read(path: Path) -> NotebookNode:
    """Read a notebook; a damaged file is one sentence naming it."""
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        raise BadInput(f"{path}: expected a notebook, found a damaged file ({str(error).splitlines()[0]})") from None


def record(path: Path) -> dict:
    """What a json file says of a run or a figure; nothing if there is no such file, or a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def tags(cell: Mapping) -> list[str]:
    """The tags of a cell."""
    return cell["metadata"].get("tags", [])


def code_cells(nb: NotebookNode) -> list[NotebookNode]:
    """The code cells, in order."""
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def outputs(nb: Mapping) -> list[str]:
    """Ids of the figures and tables a notebook declares."""
    return list(nb["metadata"].get("clipmerge", {}).get("outputs", []))


def manifests(nb: Mapping) -> list[str]:
    """Patterns of the files below ``data_manifests/`` a notebook depends on."""
    return list(nb["metadata"].get("clipmerge", {}).get("manifests", ["**/*"]))


def reads(nb: Mapping) -> list[str]:
    """Patterns of the artefacts, made by other notebooks, whose csv a notebook reads."""
    return list(nb["metadata"].get("clipmerge", {}).get("reads", []))


def maker(id: str) -> str:
    """Name of the notebook that declares an artefact, or '' if none does."""
    for path in every():
        if id in outputs(json.loads(path.read_text(encoding="utf8"))):
            return path.stem
    return ""


def parameters(nb: NotebookNode, name: str) -> dict[str, object]:
    """The parameters of a notebook: one tagged cell assigning literals to ``profile``, ``seed``, ``out``, no more."""
    tagged = [cell for cell in code_cells(nb) if "parameters" in tags(cell)]
    if len(tagged) != 1:
        raise BadInput(f"{name}: expected exactly one cell tagged 'parameters', found {len(tagged)}")
    found = {}
    for statement in ast.parse(tagged[0].source).body:
        literal = isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        if not literal or len(statement.targets) != 1 or not isinstance(statement.targets[0], ast.Name):
            line = ast.unparse(statement)
            raise BadInput(f"{name}: parameters cell: expected only assignments of literals, found {line!r}")
        found[statement.targets[0].id] = statement.value.value
    if set(found) != set(PARAMETERS):
        wanted, got = ", ".join(PARAMETERS), ", ".join(found) or "none"
        raise BadInput(f"{name}: parameters cell: expected {wanted}; found {got}")
    for key, kind in PARAMETERS.items():
        if type(found[key]) is not kind:
            raise BadInput(f"{name}: parameter {key}: expected {kind.__name__}, found {found[key]!r}")
    return found


def title(nb: NotebookNode) -> str:
    """The first heading."""
    for cell in nb.cells:
        if cell.cell_type == "markdown" and (heading := re.search(r"^# (.+)$", cell.source, re.MULTILINE)):
            return heading[1].strip()
    return "untitled"


def normalise(nb: NotebookNode) -> NotebookNode:
    """The form in which notebooks are committed: what a run adds by accident is gone, what a reader sees stays.

    No injected parameters, no run metadata, kernel ``python3``, stderr and widgets dropped, memory addresses removed,
    counts from one without gaps, what was printed in pieces joined. Ids of cells stay; missing ones follow from
    position and source.
    """
    nb = nbformat.from_dict(json.loads(json.dumps(nb)))
    nb.cells = [cell for cell in nb.cells if "injected-parameters" not in tags(cell)]
    kept = {"clipmerge": nb.metadata["clipmerge"]} if "clipmerge" in nb.metadata else {}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}, **kept})
    nb.nbformat, nb.nbformat_minor = 4, 5
    count = 0
    for position, cell in enumerate(nb.cells):
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in ("tags", "jupyter")}
        cell.id = cell.get("id") or hashlib.sha256(f"{position} {cell.source}".encode()).hexdigest()[:8]
        if cell.cell_type == "code":
            executed = cell.execution_count is not None
            count += executed
            cell.execution_count = count if executed else None
            outputs = [_normal_output(output, count) for output in cell.outputs if _is_for_readers(output)]
            cell.outputs = list(_joined(outputs))
    return nbformat.from_dict(nb)


def _joined(outputs: Iterable[dict]) -> Iterator[dict]:
    """What was printed in pieces as one: where a kernel cuts its stream is chance."""
    for printed, some in groupby(outputs, lambda output: output["output_type"] == "stream"):
        pieces = list(some)
        yield from [pieces[0] | {"text": "".join(piece["text"] for piece in pieces)}] if printed else pieces


def _is_for_readers(output: NotebookNode) -> bool:
    return output.get("name") != "stderr" and WIDGET not in output.get("data", {})


def _normal_output(output: NotebookNode, count: int) -> NotebookNode:
    output = dict(output)
    if "execution_count" in output:
        output["execution_count"] = count
    if "metadata" in output:
        output["metadata"] = {}
    if "text" in output:
        output["text"] = ADDRESS.sub("", output["text"])
    if "text/plain" in output.get("data", {}):
        data = {**output["data"], "text/plain": ADDRESS.sub("", output["data"]["text/plain"])}
        if "image/png" in data:
            del data["text/plain"]  # "<Figure size ...>" says less than the figure
        output["data"] = data
    return nbformat.from_dict(output)


def between(text: str, mark: str, content: str) -> str:
    """Replace what stands between ``<!-- mark -->`` and ``<!-- /mark -->``; text without the marks stays as it is."""
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    return re.sub(f"{start}.*?{end}", lambda _: f"{start}\n{content}\n{end}", text, flags=re.DOTALL)


def navigation(path: Path, siblings: list[Path]) -> str:
    """Links to the notebooks before and after, with their titles."""
    here = siblings.index(path)
    links = []
    if here > 0:
        links.append(f"[← {title(read(siblings[here - 1]))}]({siblings[here - 1].name})")
    if here + 1 < len(siblings):
        links.append(f"[{title(read(siblings[here + 1]))} →]({siblings[here + 1].name})")
    return " · ".join(links)


def refresh(profile: str = "laptop") -> list[str]:
    """Replace every committed notebook by its executed form, normalised; returns the names of those that changed.

    A notebook whose code differs from the executed one is refused: its stored outputs would not be its own.
    """
    siblings = every()
    changed = []
    records = {}
    for path in siblings:
        executed = paths.cache("executed", profile, path.name)
        records[path.stem] = record(executed.with_suffix(".json"))
        if not executed.exists() or not records[path.stem]:
            raise BadInput(f"{path.name}: expected an executed copy, found none: run `make figures` first")
        nb = _with_outputs(path, read(executed))
        for cell in nb.cells:
            if "navigation" in tags(cell):
                cell.source = navigation(path, siblings)
            if "cost" in tags(cell):
                cell.source = costs.box(records[path.stem])
        text = nbformat.writes(nb, version=4) + "\n"
        if text != path.read_text(encoding="utf8"):
            files.write_text(path, text)
            changed.append(path.stem)
    readme = paths.notebooks().parent / "README.md"
    if records and readme.exists():
        files.write_text(readme, between(readme.read_text(encoding="utf8"), "cost", costs.table(records)))
    return changed


def _with_outputs(path: Path, executed: NotebookNode) -> NotebookNode:
    """A committed notebook in normal form, its prose as it is now, its code cells as they were executed."""
    nb = normalise(read(path))
    run = normalise(executed)
    if [cell.source for cell in code_cells(nb)] != [cell.source for cell in code_cells(run)]:
        raise BadInput(f"{path.name}: expected the code that was executed, found other code: run `make figures`")
    by_id = {cell.id: cell for cell in code_cells(run)}
    run.cells = [by_id.get(cell.id, cell) for cell in nb.cells]
    return run


if __name__ == "__main__":
    if sys.argv[1:] != ["refresh"]:
        sys.exit("usage: python -m clipmerge.book.notebooks refresh")
    try:
        print("\n".join(f"{name}: outputs stored" for name in refresh()) or "notebooks/ is up to date")
    except BadInput as error:
        sys.exit(f"error: {error}")
