"""The ledger of claims as readers see it: a line of a table for each, and the block in the README.

    python -m clipmerge.book.claims     # renew the README's block from figures/laptop
"""

import sys
from collections import Counter
from collections.abc import Sequence
from math import isfinite

import pandas as pd

from clipmerge import files, paths
from clipmerge.book import notebooks
from clipmerge.errors import BadInput
from clipmerge.study.claims import evidence, judge, manifest
from clipmerge.study.claims.judge import Judged

VERDICTS = (evidence.HOLDS, evidence.FAILS, evidence.OPEN)
MARK, AIMS = "claims", "aims.yaml"


def table(judged: Sequence[Judged]) -> pd.DataFrame:
    """A row for each claim and setting, in words: claim, setting, bound, measured, 95 %, seeds, images, verdict, by."""
    return pd.DataFrame(
        {
            "claim": one.claim.claim,
            "setting": one.claim.part,
            "bound": bound(one),
            "measured": measured(one),
            "95 %": spread(one),
            "seeds": "once" if one.claim.once and one.seeds == 1 else str(one.seeds),
            "images": images(one),
            "verdict": one.verdict,
            "by": one.profile,
        }
        for one in judged
    )


def bound(one: Judged) -> str:
    """What the effect would have to be for the claim to hold: ``"> -2"``."""
    sign = {"greater": "> ", "less": "< ", "equal": "± ", "wider": "> "}[one.claim.kind]
    return f"{sign}{one.claim.margin:g}"


def measured(one: Judged) -> str:
    """The effect with its unit, and who the best of several was."""
    if not isfinite(one.effect):
        return "–"
    who = f" ({one.chosen})" if one.chosen not in ("", "none") else ""
    return f"{one.effect:z.{_digits(one)}f} {one.claim.unit}".rstrip() + who


def spread(one: Judged) -> str:
    """The interval, one-sided where candidates are missing, or the p that stands in its place."""
    if isfinite(one.p):
        return f"p = {one.p:.3f}"
    ends = [f"{end:z.{_digits(one)}f}" if isfinite(end) else "" for end in (one.low, one.high)]
    if one.claim.once and one.seeds == 1 or not any(ends):
        return "–"
    return f"[{ends[0]}, {ends[1]}]" if all(ends) else f"≥ {ends[0]}" if ends[0] else f"≤ {ends[1]}"


def images(one: Judged) -> str:
    """How many test images stand behind it."""
    return f"{one.n:,}" if one.n else "–"


def aims(judged: Sequence[Judged]) -> pd.DataFrame:
    """A row for each aim of `AIMS`: what was measured, and whether its mean reaches the aim and the floor."""
    by = {(one.claim.id, one.claim.part): one for one in judged}
    found = []
    for id in dict.fromkeys(one.claim.id for one in judged):
        aim, floor = by[id, "aim"], by[id, "floor"]
        about = {"claim": aim.claim.claim, "measured": measured(aim), "95 %": spread(aim), "seeds": aim.seeds}
        found.append(about | {"images": images(aim), "aim": reached(aim), "floor": reached(floor)})
    return pd.DataFrame(found).set_index("claim")


def reached(one: Judged) -> str:
    """The bound, and whether the mean lies beyond it: ``"> 84: reached"``."""
    return f"{bound(one)}: " + (("reached" if met(one) else "missed") if isfinite(one.effect) else "–")


def met(one: Judged) -> bool:
    """Whether the mean lies where the claim says, whatever its interval."""
    low, high = judge.place(one.claim)
    return bool(low < one.effect < high)


def counts(judged: Sequence[Judged]) -> pd.DataFrame:
    """How many comparisons of each paper hold, do not, and are not decidable."""
    found = Counter((one.claim.paper, one.verdict) for one in judged)
    papers = dict.fromkeys(one.claim.paper for one in judged)
    lines = {paper: {verdict: found[paper, verdict] for verdict in VERDICTS} for paper in papers}
    return pd.DataFrame.from_dict(lines, orient="index")


def readme(judged: Sequence[Judged], aimed: Sequence[Judged]) -> str:
    """The README's block: how many claims hold, the most important ones, a line each, and which aims are missed."""
    of = Counter(one.verdict for one in judged)
    claims = len({one.claim.id for one in judged})
    lines = [
        f"{claims} claims of both papers and of ConDU's reviewers, judged in {len(judged)} comparisons: "
        f"{of[evidence.HOLDS]} hold, {of[evidence.FAILS]} do not hold, {of[evidence.OPEN]} are not decidable here. "
        "Numbers: mean difference over seeds, points.",
        "",
        "| claim | verdict |",
        "|---|---|",
    ]
    chief = [one for one in judged if one.claim.headline]
    for id in dict.fromkeys(one.claim.id for one in chief):
        parts = [one for one in chief if one.claim.id == id]
        paper = parts[0].claim.paper.split(",")[0]
        lines.append(f"| {paper}: {parts[0].claim.claim} | {'; '.join(map(_said, _grouped(parts)))} |")
    return "\n".join([*lines, "", _missed(aimed)])


def _missed(aimed: Sequence[Judged]) -> str:
    """How many of the aims of this world are reached, and which floors are not."""
    aims = [one for one in aimed if one.claim.part == "aim"]
    floors = [one for one in aimed if one.claim.part == "floor"]
    below = [f"{one.claim.id.replace('-', ' ')} ({measured(one)})" for one in floors if not met(one)]
    return (
        f"Of {len(aims)} numbers that the embedded world was built to reach "
        f"([aims and floors](data_manifests/aims.yaml)), {sum(map(met, aims))} reach their aim; "
        + (f"below their floor: {', '.join(below)}." if below else "none is below its floor.")
    )


def _grouped(parts: Sequence[Judged]) -> list[list[Judged]]:
    """The settings of one claim by verdict."""
    by = [[one for one in parts if one.verdict == verdict] for verdict in VERDICTS]
    return [some for some in by if some]


def _said(some: Sequence[Judged]) -> str:
    """A verdict and the settings in which it was reached, with what was measured."""
    where = ", ".join(f"{one.claim.part.replace(', ', ' ')} {one.effect:+.1f}".strip() for one in some)
    return f"**{some[0].verdict}**: {where}"


def of_laptop(file: str = "claims.yaml") -> list[Judged]:
    """The project's claims, or its aims, by the figures that are committed."""
    return judge.every(manifest.load(paths.manifests() / file), paths.figures(judge.LAPTOP), judge.LAPTOP)


def _digits(one: Judged) -> int:
    """Decimals: one of points and per cent, two of slopes, and two digits that say something of anything else."""
    if one.claim.unit == "points" or one.claim.unit.startswith("%"):
        return 1
    return 3 if abs(one.effect) < 0.1 and not one.claim.unit.startswith("points") else 2


def main() -> None:
    """Write the block into the README."""
    path = paths.REPO / "README.md"
    block = readme(of_laptop(), of_laptop(AIMS))
    files.write_text(path, notebooks.between(path.read_text(encoding="utf8"), MARK, block))


if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        sys.exit(f"error: {error}")
