"""The searches: a grid of trials, each the usual experiment with another number in its profile, on validation images.

rows = searches.run(profiles.load("laptop"), "experts", {"lr": [3e-4, 1e-3]})

A trial is a profile whose ``data.validation`` is set. What it computes is cached, so a longer grid costs what is new.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pandas as pd

from clipmerge.errors import BadInput
from clipmerge.merge.registry import Number
from clipmerge.study import profiles, results
from clipmerge.study.condu import features, fewshot, grading, protocol
from clipmerge.study.condu import lora as condu_lora
from clipmerge.study.profiles import Profile
from clipmerge.study.profiles.settings import TaskRates
from clipmerge.study.routing import inference, radius
from clipmerge.study.time import loop, streams

SEED = 0  # of the validation split and of all that is tuned
COMMON = TaskRates({}, {}, {}, {}, {})  # no task has a rate of its own
LORA_TASKS = ("animals", "digits", "food", "kanji", "surfaces")
LORA_KINDS = ("experts", "product", "factors")
L2_TASKS = 3
UNSEEN = ("food", "icons", "critters")  # adaptation sets that stand in for TIME's held-out ones: drawings, as those are


@dataclass(frozen=True)
class Search:
    """A function (profile, one value of each axis) → tidy rows, and the values that are tried unless others are given.

    The axes are named and ordered as the function's arguments.
    """

    trial: Callable[..., pd.DataFrame]
    grid: Mapping[str, Sequence[Number]]


def experts(profile: Profile, steps: int, classes: int, lr: float) -> pd.DataFrame:
    """Experts as they are, out of ConDU's last session, and averaged.

    ConDU's is what is deployed, so its best mean is to be taken; the average falls where experts harm foreign tasks.
    """
    recipe = replace(profile.finetune, steps=steps, warmup=steps // 10, classes=classes, lr=lr)
    trial = replace(profile, finetune=recipe, lr_by_task=COMMON)
    rows = protocol.last(trial, ("experts", "condu-ft", "average"), trial.model, [SEED])
    return rows.assign(steps=steps, classes=classes, lr=lr)


def lora(profile: Profile, lr: float) -> pd.DataFrame:
    """LoRA experts as they are, and ConDU on either kind of their deltas."""
    order = [task for task in profiles.order(profile) if task in LORA_TASKS]
    trial = replace(profile, lora=replace(profile.lora, lr=lr), lr_by_task=COMMON)
    plans = {}
    for kind in LORA_KINDS:
        name = kind if kind == "experts" else f"condu-lora ({kind})"
        plans[name, SEED] = condu_lora.plan(trial, kind, SEED, order)[-1:]
    rows = protocol.rows(trial, plans, order)
    return rows.assign(steps=trial.finetune.steps, lr=lr, rank=trial.lora.rank)


def l2(profile: Profile, strength: float) -> pd.DataFrame:
    """Weight consolidation, after the first tasks."""
    return _baseline(profile, "l2", profiles.order(profile)[:L2_TASKS], strength=strength)


def rail(profile: Profile, width: int, ridge: float, fusion: float) -> pd.DataFrame:
    """RAIL after all tasks."""
    return _baseline(profile, "rail", profiles.order(profile), width=width, ridge=ridge, fusion=fusion)


def _baseline(profile: Profile, method: str, order: Sequence[str], **options: Number) -> pd.DataFrame:
    given = profile.baselines.options
    given = {**given, method: {**given.get(method, {}), **options}}
    trial = replace(profile, baselines=replace(profile.baselines, options=given))
    rows = protocol.last(trial, [method], trial.model, [SEED], order)
    return rows[[*results.COLUMNS]].assign(setting=" ".join(f"{name}={value:g}" for name, value in options.items()))


def rules(profile: Profile) -> pd.DataFrame:
    """Who votes, with what weight, by which prototypes, when nobody says which task an image is from."""
    frames = [inference.sweep(profile, [SEED], side).assign(prototypes=side) for side in features.SIDES]
    rows = pd.concat(frames, ignore_index=True)
    rows = rows[rows.task == "mean"]
    parts = rows[["prototypes", "k", "base", "weighting", "tau"]].itertuples(index=False)
    words = [" ".join(str(part) for part in rule if not pd.isna(part)) for rule in parts]
    return rows[[*results.COLUMNS]].assign(setting=words)


def radii(profile: Profile, quantile: float, tau: float) -> pd.DataFrame:
    """The base answers what is outside of every task's radius: accuracy after the last session, and on unseen tasks."""
    frames = []
    for side in features.SIDES:
        rule = replace(profile.inference.radius, prototypes=side, quantile=quantile, tau=tau)
        trial = replace(profile, inference=replace(profile.inference, radius=rule, average_seeds=()))
        rows = radius.run(trial, [SEED])
        rows = rows.assign(metric=rows.space.where(rows.metric == "last", rows.metric))
        kept = rows[(rows.task == "mean") & (rows.metric != "seen")]
        frames.append(kept[[*results.COLUMNS]].assign(setting=f"radius {side} {quantile:g} {tau:g}"))
    return pd.concat(frames, ignore_index=True)


def chain(profile: Profile, steps: int, lr: float) -> pd.DataFrame:
    """Continual fine-tuning after the last task, all links but the first by the same recipe."""
    recipe = replace(profile.chain, steps=steps, warmup=steps // 10, lr=lr)
    rows = protocol.last(replace(profile, chain=recipe, lr_by_task=COMMON), ["continual-ft"], profile.model, [SEED])
    return rows.assign(steps=steps, lr=lr)


def few(profile: Profile, lr: float) -> pd.DataFrame:
    """Experts of a few images a class, as they are and out of ConDU's last session."""
    short = replace(profile.few_shot, lr=lr, session_seeds=())
    rows = fewshot.run(replace(profile, few_shot=short, lr_by_task=COMMON), ("experts", "condu-ft"), [SEED])
    rows = rows[rows.prototypes != grading.FULL].drop(columns="prototypes")
    return rows.assign(steps=short.steps, shots=short.shots, lr=lr)


def time(profile: Profile, steps: int, lr: float) -> pd.DataFrame:
    """TIME's reference, sequential fine-tuning with replay, before and after the stream.

    The rate with the best mean ``ka`` over the budgets is taken; ``gm`` would take the one that moves least.
    `UNSEEN` are taken out of the stream and held out; `steps` are those of one task.
    """
    setting = profile.temporal
    seen = tuple(name for name in setting.adaptation if name not in UNSEEN)
    recipe = replace(setting.recipe, steps=steps, lr=lr)
    trial = replace(profile, temporal=replace(setting, recipe=recipe, adaptation=seen, heldout=UNSEEN))
    run = loop.Setting(trial, streams.make(trial, seed=SEED), SEED)
    rows = loop.collect([loop.plan(run, loop.Strategy("ft", "ft"), every=0), loop.zero_shot(run)])
    rows = rows[(rows.task == "mean") & (rows.images == "full")]
    return rows[[*results.COLUMNS, "model", "tasks"]].assign(steps=trial.temporal.budget, lr=lr)


RAIL_GRID = {"width": (1024, 2048), "ridge": (0.001, 0.01, 0.1, 1.0), "fusion": (0.5, 0.8, 0.9, 0.95, 1.0)}
SEARCHES = {
    "experts": (Search(experts, {"steps": (240,), "classes": (48,), "lr": (3e-4, 5e-4)}),),
    "chain": (Search(chain, {"steps": (120,), "lr": (1e-4, 3e-4)}),),
    "few": (Search(few, {"lr": (3e-4, 1e-3)}),),
    "rules": (Search(rules, {}), Search(radii, {"quantile": (0.02, 0.05, 0.1, 0.25), "tau": (0.01, 0.02, 0.05)})),
    "lora": (Search(lora, {"lr": (3e-3, 1e-2, 3e-2)}),),
    "baselines": (Search(rail, RAIL_GRID), Search(l2, {"strength": (0.01, 0.1, 1.0)})),
    "time": (Search(time, {"steps": (65, 80), "lr": (5e-5, 1e-4, 3e-4)}),),
}


def run(profile: Profile, what: str, axes: Mapping[str, Sequence[Number]] | None = None) -> pd.DataFrame:
    """Grade every trial of the grid of `what` on validation images, `axes` in place of the usual ones of that name."""
    axes = axes or {}
    known = [name for search in SEARCHES[what] for name in search.grid]
    for name in axes:
        if name not in known:
            raise BadInput(f"tuning {what}: expected one of {', '.join(known)}; found {name!r}")
    profile = replace(profile, data=replace(profile.data, validation=SEED))
    frames = []
    for search in SEARCHES[what]:
        grid = {name: axes.get(name, usual) for name, usual in search.grid.items()}
        frames += [search.trial(profile, *point) for point in product(*grid.values())]
    rows = pd.concat(frames, ignore_index=True)
    return rows.assign(metric=rows.metric.replace("last", "validation"))
