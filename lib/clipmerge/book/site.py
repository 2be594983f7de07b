"""The book as a folder of web pages that needs no network: notebooks, gallery, API, and the page one can play with.

    python -m clipmerge.book.site site        # needs `pip install -e .[site]`; then open site/index.html

The committed notebooks are shown with their stored outputs; nothing is executed. Cells tagged ``hide-input`` are
folded. Sphinx does the work. Formulas become MathML while it builds, so that no script has to come from elsewhere.
"""

import ast
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clipmerge import paths
from clipmerge.book import explore, notebooks
from clipmerge.errors import BadInput

PACKAGE = Path(__file__).resolve().parents[1]
ROOMS = ("merge", "clip", "study", "book")
GALLERY = "figures/laptop"
CONFIG = {
    "project": "Temporal model merging",
    "author": "",
    "root_doc": "index",
    "extensions": ["myst_nb", "clipmerge.book.site"],
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "nb_code_prompt_show": "Show code",
    "nb_code_prompt_hide": "Hide code",
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "myst_heading_anchors": 3,
    "html_math_renderer": "mathml",
    "html_theme": "furo",
    "html_title": "Temporal model merging",
    "html_static_path": ["_static"],
    "html_css_files": ["site.css"],
    "html_copy_source": False,
    "html_show_search_summary": False,  # it would be fetched, which browsers refuse to pages in a folder
    "html_show_sphinx": False,
    "show_warning_types": True,
    # Cells are of Python 3; notebooks begin with a line of navigation, before their title.
    "suppress_warnings": ["mystnb.unknown_mime_type", "myst.header"],
}
# Furo's column is widened, as code here has lines of 120. Docstrings are wrapped; tables of numbers scroll by
# themselves and have no frames; what is folded says so in small print.
STYLE = """\
.main, .content { min-width: 0; }
.content { width: 57em; }
@media (min-width: 82em) { .sidebar-drawer { width: calc(50% - 33em); } }
.highlight pre { font-size: 0.75rem; }
.highlight-text pre { white-space: pre-wrap; }
div.cell .cell_output { margin-top: 0; padding-left: 0; overflow-x: auto; }
.cell_output table { border-collapse: collapse; border: 0; font-size: 0.85rem; }
.cell_output :is(td, th) {
  border: 0; border-bottom: 1px solid var(--color-background-border); padding: 0.2rem 0.6rem; }
.cell_output tbody th { min-width: 10rem; font-weight: normal; text-align: left; }
div.cell details.hide { margin: 0.3rem 0; padding: 0; border: 0; box-shadow: none; }
div.cell details.hide > summary > p.admonition-title {
  margin: 0; padding: 0; background: none; color: var(--color-foreground-muted); font-size: 0.8rem; font-weight: normal;
}
div.cell details.hide > summary > p.admonition-title::before { display: none; }
"""


def build(out: Path) -> int:
    """Build the site into `out`; returns the number of warnings, each of which Sphinx has said."""
    try:
        from sphinx.application import Sphinx
    except ImportError:
        raise BadInput("site: expected Sphinx with myst-nb and furo, found none: pip install -e '.[site]'") from None
    with tempfile.TemporaryDirectory() as folder:
        source, pages, work = Path(folder, "source"), Path(folder, "pages"), Path(folder, "work")
        gather(source)
        app = Sphinx(source, None, pages, work, "html", confoverrides=CONFIG, freshenv=True)
        app.build()
        shutil.copytree(pages, out, dirs_exist_ok=True)  # myst-nb leaves a folder of its own beside the pages
    shutil.copy(explore.page(), out / "notebooks")
    return app._warncount


def gather(source: Path) -> None:
    """Lay out what Sphinx reads: the repository's own folders, so that its links hold, and pages of docstrings."""
    (source / "api").mkdir(parents=True)
    (source / "notebooks").mkdir()
    for path in notebooks.every():
        shutil.copy(path, source / "notebooks")
    tables = [path.name for path in (paths.REPO / GALLERY).glob("*.md") if path.name != "INDEX.md"]  # which shows them
    shutil.copytree(paths.REPO / GALLERY, source / GALLERY, ignore=shutil.ignore_patterns(*tables))
    (source / "_static").mkdir()
    (source / "_static" / "site.css").write_text(STYLE, encoding="utf8")
    for room in ROOMS:
        (source / "api" / f"{room}.md").write_text("\n".join(_room(room)), encoding="utf8")
    readme = (paths.REPO / "README.md").read_text(encoding="utf8")
    (source / "index.md").write_text(_front(readme), encoding="utf8")


def _front(readme: str) -> str:
    """The README with the contents of the site; a link to a file that is not part of it becomes plain text."""
    kept = re.compile(rf"https?:|#|notebooks/.*\.ipynb|{GALLERY}/")
    play = f"notebooks/{explore.page().name}"

    def link(found: re.Match) -> str:
        text, target = found.groups()
        if target == play:  # Markdown would make a download of it
            return f'<a href="{play}">{text}</a>'
        return found[0] if kept.match(target) else text

    text = re.sub(r"(?<!!)\[([^]]+)\]\(([^)]+)\)", link, readme)
    if play not in text:
        text = text.replace("\n", f'\n\n<a href="{play}">Merge it yourself: a page one can play with</a>\n', 1)
    text = text.replace("```mermaid", "```text")  # what draws it is a script from elsewhere
    pages = [f"notebooks/{path.stem}" for path in notebooks.every()]
    lists = {"Read": pages, "Look up": [f"{GALLERY}/INDEX", *(f"api/{room}" for room in ROOMS)]}
    trees = [f"```{{toctree}}\n:hidden:\n:caption: {name}\n\n" + "\n".join(each) for name, each in lists.items()]
    return "\n\n".join([text, *(f"{tree}\n```" for tree in trees)]) + "\n"


def _room(room: str) -> Iterator[str]:
    """A page of what one room offers: modules in their order, public functions and classes with their docstrings."""
    yield f"# clipmerge.{room}\n"
    for path in sorted((PACKAGE / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf8"))
        defined = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        public = [node for node in defined if not node.name.startswith("_")]
        if not public:
            continue
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        yield f"## {name}\n\n{_block(ast.get_docstring(tree))}"
        for node in public:
            yield f"### {node.name}\n\n```python\n{_signature(node)}\n```\n\n{_block(ast.get_docstring(node))}"


def _block(docstring: str | None) -> str:
    return f"```text\n{docstring}\n```\n" if docstring else ""


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        fields = [ast.unparse(part) for part in node.body if isinstance(part, ast.AnnAssign)]
        return "\n    ".join([f"class {node.name}:", *(fields or ["..."])])
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}"


def setup(app) -> dict[str, bool]:
    """What Sphinx calls: formulas as MathML, which every browser draws by itself."""
    from docutils import nodes
    from latex2mathml.converter import convert

    def draw(display: str):
        def visit(translator, node: nodes.Node) -> None:
            translator.body.append(convert(node.astext(), display=display))
            raise nodes.SkipNode

        return visit, None

    app.add_html_math_renderer("mathml", draw("inline"), draw("block"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    try:
        sys.exit(f"{warned} warnings" if (warned := build(Path(sys.argv[1] if sys.argv[1:] else "site"))) else 0)
    except BadInput as error:
        sys.exit(f"error: {error}")
