"""TIME: how to merge models over time (arXiv 2412.06712). Its strategies, the loop of its Figure 2, and tidy rows.

    stream = streams.make(profile, "random", seed=0)
    rows = temporal.run(stream, init="ema", deploy="ema", technique="average", ema_weight=0.5, profile=profile, seed=0)

After every task a subset of the test images is graded, after the last one all of them. What strategies have in common
(an expert with the same start, a fold of the same experts) is one cached step.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.merge import ema, recency, techniques
from clipmerge.merge.registry import Number, among
from clipmerge.study import metrics, results
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile
from clipmerge.study.time import pipeline, steps
from clipmerge.study.time.pipeline import Blend, Setting
from clipmerge.study.time.streams import Stream

INITS, DEPLOYS = ("zs", "ft", "all", "ema"), ("ft", "all", "ema")


@dataclass(frozen=True)
class Strategy:
    """One point of the design space.

    `init`: where a task starts: zs (the base), ft (the last expert), all (all experts merged), ema (their fold).
    `deploy`: what is graded after it: ft, all, ema. `technique` serves both, with `options` of its own.
    `ema_weight` w: r ← w·e + (1 − w)·r, 0.5 if None; `fold_start`: the fold begins with the base, or the first expert.
    `recency`, `reverse`, `with_base`: weights of deploy "all", and whether the base is among what it merges.
    `as_reference`: the reference code's quirk, a custom w is forgotten in combinations with "all".
    """

    init: str = "ema"
    deploy: str = "ema"
    technique: str = "average"
    ema_weight: Number | None = None
    fold_start: str = "base"
    options: Mapping[str, object] = field(default_factory=dict)
    recency: str = "uniform"
    reverse: bool = False
    with_base: bool = False
    as_reference: bool = False

    def __post_init__(self) -> None:
        among("init", self.init, INITS)
        among("deploy", self.deploy, DEPLOYS)
        among("fold_start", self.fold_start, ("base", "first"))
        technique = techniques.find(self.technique)
        if technique.pair and "all" in (self.init, self.deploy):
            raise BadInput(
                f"{self.technique} merges exactly two models: expected init and deploy among zs, ft, ema,"
                f" found {self.init} and {self.deploy}; 'all' merges as many as there are tasks"
            )
        if self.technique == "fisher":
            raise BadInput("fisher needs a Fisher diagonal of every expert, which a stream does not keep; not in TIME")
        if (self.recency != "uniform" or self.reverse) and (self.deploy != "all" or not technique.weighted):
            raise BadInput(
                f"recency {self.recency}: expected deploy all and a technique with weights,"
                f" found {self.deploy} and {self.technique}"
            )
        if self.with_base and self.deploy != "all":
            raise BadInput(f"with_base: expected deploy all, found {self.deploy}; folds have fold_start")
        ema.pair(self.technique, self.ema_weight)  # refuses a weight where the technique takes none
        technique.recipe({key: value for key, value in self.options.items() if key != "lines"})

    @property
    def weight(self) -> float | None:
        """The weight of the newcomer in a fold; None if the technique takes none."""
        forgotten = self.as_reference and "all" in (self.init, self.deploy)
        pair = ema.pair(self.technique, None if forgotten else self.ema_weight)
        return None if pair is None else float(pair[0])

    @property
    def columns(self) -> dict[str, object]:
        """How it is described in rows."""
        named = {name: getattr(self, name) for name in ("init", "deploy", "technique", "with_base")}
        return named | {
            "ema_weight": self.weight if "ema" in (self.init, self.deploy) else None,
            "recency": f"{self.recency} reversed" if self.reverse else self.recency,
            "options": ", ".join(f"{key} {value}" for key, value in sorted(self.options.items())),
        }


def loop(setting: Setting, strategy: Strategy) -> list[Step | Blend]:
    """The deployed model after each task: the loop of TIME's Figure 2."""
    experts, deployed, running = [], [], None
    for task in range(len(setting.stream.chunks)):
        start = initial(setting, strategy, experts, running)
        expert = pipeline.train(setting, task, start)
        experts.append(expert)
        running = folded(setting, strategy, expert, running)
        deployed.append(final(strategy, experts, running))
    return deployed


def initial(setting: Setting, strategy: Strategy, experts: Sequence[Step], running: Step | None) -> Step | None:
    """INIT: the start of the next task; before any task, and for zs always, the base (None)."""
    if not experts or strategy.init == "zs":
        return None
    if strategy.init == "ft":
        return experts[-1]
    if strategy.init == "ema":
        return running
    return pipeline.merge(setting, Blend(tuple(experts), strategy.technique, options=strategy.options))


def folded(setting: Setting, strategy: Strategy, expert: Step, running: Step | None) -> Step | None:
    """The moving average with one more expert; not made where nobody asks for it."""
    if "ema" not in (strategy.init, strategy.deploy):
        return None
    if running is None and strategy.fold_start == "first":
        return expert
    weights = ema.pair(strategy.technique, strategy.weight)
    return pipeline.merge(setting, Blend((expert, running), strategy.technique, weights, strategy.options))


def final(strategy: Strategy, experts: Sequence[Step], running: Step | None) -> Step | Blend:
    """DEPLOY: the model that is used after a task."""
    if strategy.deploy == "ft":
        return experts[-1]
    if strategy.deploy == "ema":
        return running
    models = (None, *experts) if strategy.with_base else tuple(experts)
    weights = None
    if strategy.recency != "uniform" or strategy.reverse:
        weights = recency.weights(strategy.recency, len(models), strategy.reverse)
    return Blend(models, strategy.technique, weights, strategy.options)


@dataclass(frozen=True)
class Plan:
    """The columns that the rows of a run have in common, and its grading steps by (session, "subset" or "full").

    `file`: where a grading step has left what is read here.
    """

    profile: Profile
    columns: Mapping[str, object]
    graded: Mapping[tuple[int, str], Step]
    file: str = steps.ACCURACY


def plan(setting: Setting, strategy: Strategy, every: int = 1, full: bool = True) -> Plan:
    """What a run computes.

    The subset is graded after each `every`-th task and the last one (0: never), all test images after the last one if
    `full`.
    """
    models = [None, *loop(setting, strategy)]
    last = len(models) - 1
    sessions = [t for t in range(last + 1) if every and (t % every == 0 or t == last)]
    graded = {(t, "subset"): pipeline.grade(setting, models[t]) for t in sessions}
    if full:
        graded[last, "full"] = pipeline.grade(setting, models[last], "full")
    method = {"method": f"{strategy.init}/{strategy.deploy}"}
    return Plan(setting.profile, method | setting.columns | strategy.columns, graded)


def bound(setting: Setting) -> Plan:
    """The multitask upper bound ``joint``: one task of all pairs with all steps.

    It rehearses pretraining as much as `setting` does; nothing is past, so all else of a batch is the update.
    """
    every_pair = sorted(pair for chunk in setting.stream.chunks for pair in chunk)
    pretraining, update, buffer = setting.mixture
    mixture = (pretraining, update + buffer, 0)
    joint = replace(setting, stream=Stream("joint", (tuple(every_pair),)), mixture=mixture)
    columns = {"method": "joint"} | setting.columns
    return _once(joint, columns, len(setting.stream.chunks), pipeline.train(joint, 0, None))


def zero_shot(setting: Setting) -> Plan:
    """The untouched base, as a run of no tasks (session 0)."""
    return _once(setting, {"method": "zero-shot"} | setting.columns, 0, None)


def _once(setting: Setting, columns: Mapping, session: int, model: Step | None) -> Plan:
    graded = {(session, images): pipeline.grade(setting, model, images) for images in ("subset", "full")}
    return Plan(setting.profile, columns, graded)


def run(
    stream: Stream,
    init: str = "ema",
    deploy: str = "ema",
    technique: str = "average",
    ema_weight: Number | None = None,
    *,
    profile: Profile,
    seed: int = 0,
) -> pd.DataFrame:
    """Tidy rows of one run; `plan` and `collect` can vary more, and compute many runs side by side."""
    return collect([plan(Setting(profile, stream, seed), Strategy(init, deploy, technique, ema_weight))])


def collect(plans: Iterable[Plan]) -> pd.DataFrame:
    """Compute plans side by side; rows ``ka``, ``zs``, ``gm`` (task mean) of every session, ``accuracy`` by set last.

    Columns besides the contract's: session, images (subset, full) and those of `plan`.
    """
    plans = list(plans)
    store.build([step for each in plans for step in each.graded.values()], plans[0].profile.compute)
    frames = [_rows(each, *where, step) for each in plans for where, step in each.graded.items()]
    return pd.concat(frames, ignore_index=True)


def _rows(plan: Plan, session: int, images: str, step: Step) -> pd.DataFrame:
    graded = files.read_json(step.folder / plan.file)
    accuracy, sizes = graded["accuracy"], graded["n"]
    adaptation = plan.profile.temporal.adaptation
    heldout = [name for name in plan.profile.temporal.heldout if name in accuracy]
    ka = metrics.knowledge_accumulation(accuracy[name] for name in adaptation)
    zs = metrics.zero_shot_retention(accuracy[name] for name in heldout)
    seen = sum(sizes[name] for name in adaptation)
    unseen = sum(sizes[name] for name in heldout)
    scores = {"ka": (ka, seen), "zs": (zs, unseen), "gm": (metrics.geometric_mean(ka, zs), seen + unseen)}
    columns = {**plan.columns, "session": session, "images": images}
    frames = [results.rows({"mean": value}, metric=metric, n=n, **columns) for metric, (value, n) in scores.items()]
    if images == "full":
        frames.append(results.rows(accuracy, metric="accuracy", n=sizes, **columns))
    return pd.concat(frames, ignore_index=True)
