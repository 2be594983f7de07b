"""The site: what is gathered for it; and, where its tools are, that its links hold and nothing comes from afar."""

import re

import pytest

from clipmerge import paths
from clipmerge.book import explore, notebooks, site


def test_what_is_gathered(tmp_path):
    site.gather(tmp_path / "source")
    source = tmp_path / "source"
    front = (source / "index.md").read_text(encoding="utf8")
    assert all(f"notebooks/{path.stem}\n" in front for path in notebooks.every())
    assert f'<a href="notebooks/{explore.page().name}">' in front
    assert front.count("](") > len(notebooks.every())  # its links; what they point to is part of the site
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", front):
        assert (source / target).exists(), target
    page = (source / "api" / "merge.md").read_text(encoding="utf8")
    assert "## clipmerge.merge.condu" in page and "def decouple(unified: Unified, task: int | str)" in page
    assert "### _unify" not in page


def test_gallery_is_the_committed_one(tmp_path):
    site.gather(tmp_path / "source")
    pictures = {path.name for path in (tmp_path / "source" / site.GALLERY).glob("*.png")}
    assert pictures == {path.name for path in paths.figures("laptop").glob("*.png")} != set()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")  # of tools to tools
def test_site_is_whole(tmp_path):
    pytest.importorskip("myst_nb", reason="the extra [site] is not installed")
    tmp_path /= "site"
    assert site.build(tmp_path) == 0  # a broken link is a warning
    assert [path.name for path in tmp_path.parent.iterdir()] == ["site"]
    assert (tmp_path / "search.html").exists() and (tmp_path / "searchindex.js").exists()
    assert (tmp_path / "notebooks" / "explore.html").exists()
    for path in tmp_path.rglob("*.html"):
        text = path.read_text("utf8")
        fetched = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"', text)
        fetched += re.findall(r'<link[^>]* href="([^"]+)"', text)
        assert [url for url in fetched if re.match(r"(https?:)?//", url)] == [], path.name
    loop = (tmp_path / "notebooks" / "20_time_framework.html").read_text("utf8")
    assert "<math" in loop and "$$" not in loop.split("<main")[-1].split("<pre")[0]
