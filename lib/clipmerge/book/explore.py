"""The recorded results in ``notebooks/explore.html``, the page one can play with.

    python -m clipmerge.book.explore     # read figures/laptop, write the page's block of results again

The page holds its own arithmetic; what was *measured* it shows from one JSON block, which this module writes from the
csv of committed artefacts. Columns are chosen by name: one that an artefact gains becomes one more condition that its
results are shown under, so that two settings never end up in one mean.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from clipmerge import files, paths
from clipmerge.book import notebooks
from clipmerge.errors import BadInput
from clipmerge.merge import ema, techniques
from clipmerge.study import profiles, results
from clipmerge.study.time.loop import Strategy

MAKER = "python -m clipmerge.book.explore"
RUNS = ("time_grid", "time_techniques", "time_ema", "time_offline")  # artefacts of single runs of TIME's loop
PATHS, MASKS = "time_trajectories", "condu_many_tasks"
CHOICE = ("init", "deploy", "technique", "options", "ema_weight")
SCORES = ("ka", "zs", "gm")
MEASURED = ("seed", "value", "n", "metric")  # what differs between the numbers of one result


def page() -> Path:
    """Where the page is: beside the notebooks, so that JupyterLab can open it."""
    return paths.notebooks() / "explore.html"


def recorded(profile: str = "laptop") -> dict:
    """What the page shows of the artefacts of a profile, ready for JSON.

    ``runs``, one for each choice and its conditions, hold ka, zs and gm by seed; ``paths`` their means by session;
    ``masks`` the share of ones in ConDU's masks by session, in per cent.
    """
    runs = [run for id in RUNS for run in _runs(id, _read(id, profile))]
    distinct = {}
    for run in runs:  # a sweep's middle and a technique's default are one run in two artefacts
        distinct.setdefault(json.dumps([run["choice"] or run["method"], run["conditions"]]), run)
    return {
        "maker": MAKER,
        "profile": profile,
        "runs": list(distinct.values()),
        "paths": list(_paths(_read(PATHS, profile))),
        "masks": list(_masks(_read(MASKS, profile))),
    }


def write(profile: str = "laptop") -> bool:
    """Write the block of results into the page; returns whether it changed."""
    text = page().read_text(encoding="utf8")
    made = with_block(text, recorded(profile))
    if made != text:
        files.write_text(page(), made)
    return made != text


def with_block(text: str, found: Mapping) -> str:
    """The page with another block of results. Raises BadInput if it has no place for one."""
    if not re.search("<!-- recorded -->.*<!-- /recorded -->", text, re.DOTALL):
        raise BadInput(f"{page().name}: expected the marks <!-- recorded --> and <!-- /recorded -->, found none")
    lines = []
    for key, value in found.items():
        entries = value if isinstance(value, list) else None
        packed = [_json(entry) for entry in entries] if entries else []
        lines.append(f'"{key}": ' + ("[\n  " + ",\n  ".join(packed) + "\n ]" if packed else _json(value)))
    block = "{\n " + ",\n ".join(lines) + "\n}"
    return notebooks.between(text, "recorded", f'<script type="application/json" id="recorded">\n{block}\n</script>')


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/")  # "</script>" would end the block


def _read(id: str, profile: str) -> pd.DataFrame:
    path = paths.figures(profile) / f"{id}.csv"
    if not path.exists():
        raise BadInput(f"{path.name}: expected an artefact in figures/{profile}, found none: run `make figures` first")
    table = results.tidy(pd.read_csv(path, dtype={"options": str, "mixture": str}))
    if "mixture" in table:  # the page has shares, a profile has names for them
        named = profiles.load(profile).temporal.mixtures
        shares = {name: ":".join(f"{share:g}" for share in mixture) for name, mixture in named.items()}
        table = table.assign(mixture=table.mixture.replace(shares))
    return table[table.source == "ours"]


def _runs(id: str, table: pd.DataFrame) -> Iterator[dict]:
    if "images" in table:  # after the last task all test images are graded, before it a subset
        table = table[table.images == "full"].drop(columns=["images", "session"])
    for run in _groups(id, _strategies(table[table.metric.isin(SCORES)])):
        rows = run.pop("rows")
        scores = {metric: _by(rows[rows.metric == metric], "seed") for metric in SCORES}
        seeds = [int(seed) for seed in scores["ka"].index]
        yield run | {"seeds": seeds} | {metric: values.round(3).tolist() for metric, values in scores.items()}


def _strategies(table: pd.DataFrame) -> pd.DataFrame:
    """The table with init and deploy: of the method's name where there are no such columns, zs/all of merges alone."""
    if "init" in table:
        return table
    named = table.method.str.extract(r"^(?P<init>zs|ft|all|ema)/(?P<deploy>ft|all|ema)\b")
    offline = named.init.isna() & table.technique.notna()
    return table.assign(init=named.init.mask(offline, "zs"), deploy=named.deploy.mask(offline, "all"))


def _paths(table: pd.DataFrame) -> Iterator[dict]:
    table = table[table.metric.isin(SCORES[:2]) & table.init.notna()]  # landmarks take no path
    for run in _groups(PATHS, table, "session"):
        rows = run.pop("rows")
        scores = {metric: _by(rows[rows.metric == metric], "session") for metric in SCORES[:2]}
        yield run | {metric: values.round(3).tolist() for metric, values in scores.items()}


def _masks(table: pd.DataFrame) -> Iterator[dict]:
    for run in _groups(MASKS, table[table.metric == "density"], "session"):
        density = _by(run.pop("rows"), "session")
        yield run | {"session": [int(t) for t in density.index], "density": density.round(3).tolist()}


def _by(rows: pd.DataFrame, column: str) -> pd.Series:
    return rows.groupby(column).value.mean()


def _groups(id: str, table: pd.DataFrame, *running: str) -> Iterator[dict]:
    """Rows that differ in what was measured alone, with what was chosen and the conditions it was measured under."""
    table = _chosen(table)
    fixed = [c for c in table if c not in (*MEASURED, *running, "task", "source")]
    for values, rows in table.groupby(fixed, dropna=False, sort=False):
        named = {c: str(v) for c, v in zip(fixed, values, strict=True) if pd.notna(v) and str(v)}
        choice = {key: named.pop(key) for key in CHOICE if key in named}
        yield {
            "artefact": id,
            "notebook": notebooks.maker(id),
            "method": named.pop("method"),
            "choice": _completed(choice) if "init" in choice else {},
            "conditions": named,
            "rows": rows,
        }


def _chosen(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a sweep's columns ``knob`` and ``setting`` told apart: a weight is chosen, options stand there."""
    if "knob" not in table:
        return table
    weights = table.setting.where(table.knob.str.startswith("w of "))
    return table.drop(columns=["knob", "setting"]).assign(ema_weight=table.get("ema_weight", weights))


def _completed(choice: Mapping[str, str]) -> dict:
    """A choice with what its artefact did not vary: defaults of `Strategy`, and a weight only where there is a fold."""
    technique = choice.get("technique", Strategy.technique)
    weight = None
    if "ema" in (choice["init"], choice["deploy"]) and technique in techniques.names():
        pair = ema.pair(technique, float(choice["ema_weight"]) if "ema_weight" in choice else None)
        weight = None if pair is None else float(pair[0])
    knobs = {name: float(number) for name, number in re.findall(r"(?:^|, )(\w+) ([\d.]+)", choice.get("options", ""))}
    return {
        "init": choice["init"],
        "deploy": choice["deploy"],
        "technique": technique,
        "options": choice.get("options", ""),
        "knobs": knobs,
        "ema_weight": weight,
    }


if __name__ == "__main__":
    try:
        print(f"{page().name}: {'results stored' if write() else 'up to date'}")
    except BadInput as error:
        sys.exit(f"error: {error}")
