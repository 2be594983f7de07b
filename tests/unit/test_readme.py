"""What the README says runs as pasted."""

import re

import torch

from clipmerge import paths

README = (paths.REPO / "README.md").read_text(encoding="utf8")


def test_the_ten_line_core_runs_and_gives_an_expert_back():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 10
    names = {}
    exec(code, names)  # noqa: S102
    base, expert, first = names["base"], names["experts"][0], names["first"]
    assert first.keys() == base.keys()
    change = torch.cat([(first[k] - base[k]).flatten() for k in base])
    wanted = torch.cat([(expert[k] - base[k]).flatten() for k in base])
    torch.testing.assert_close(change, wanted, atol=1e-4, rtol=0)  # parallel deltas: ConDU loses nothing


def test_every_file_it_links_to_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if not link.startswith("http")]
    assert local and all((paths.REPO / link).exists() for link in local), local
