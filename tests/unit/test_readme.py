"""What the README says runs as pasted."""

import re

import torch

from clipmerge import paths
from clipmerge.book import claims, notebooks

README = (paths.REPO / "README.md").read_text(encoding="utf8")


def test_the_demo_runs_and_is_what_one_computes_by_hand(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    exec(code, names)  # noqa: S102
    # session 2 meets 1.6, 0, 0, 0 (λ = 1.6 / 0.9) and 1.8 / 2.3 times 0.9, 0.7, -0.6, 0.1; signs of the sums: + + + -
    wanted = torch.tensor([1.6, 0.7 * 1.8 / 2.3, 0.8, -0.4])
    torch.testing.assert_close(names["unified"].delta["w"], wanted)
    assert capsys.readouterr().out.count("comes back as") == 3


def test_every_file_it_links_to_exists():
    for page in (paths.REPO / "README.md", *sorted((paths.REPO / "docs").glob("*.md"))):
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf8"))
        local = [link for link in links if not link.startswith("http")]
        assert all((page.parent / link).exists() for link in local), (page.name, local)


def test_what_it_says_of_claims_is_what_the_committed_figures_say():
    """`make refresh` renews it."""
    assert claims.MARK in README
    block = claims.readme(claims.of_laptop(), claims.of_laptop(claims.AIMS))
    assert notebooks.between(README, claims.MARK, block) == README
