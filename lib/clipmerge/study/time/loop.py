"""TIME: how to merge models over time. The loop, its strategies, and tidy rows (arXiv 2412.06712).

    stream = streams.make(profile, "random", seed=0)
    rows = temporal.run(stream, init="ema", deploy="ema", technique="average", ema_weight=0.5, profile=profile, seed=0)

After every task a subset of the test images is graded, after the last one all of them. What strategies have in common
(an expert with the same start, a fold of the same experts) is one cached step.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.merge import ema, recency, techniques
from clipmerge.merge.registry import Number
from clipmerge.study import metrics, results
from clipmerge.study.cache import store
from clipmerge.study.cache.scheduler import Progress
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile
from clipmerge.study.time import stages, steps
from clipmerge.study.time.stages import Blend, Model, Setting
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
        for name, known in (("init", INITS), ("deploy", DEPLOYS), ("fold_start", ("base", "first"))):
            if getattr(self, name) not in known:
                raise BadInput(f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}")
        technique = techniques.find(self.technique)
        if technique.pair and "all" in (self.init, self.deploy):
            raise BadInput(
                f"{self.technique} merges exactly two models: expected init and deploy among zs, ft, ema,"
                f" found {self.init} and {self.deploy}; 'all' merges as many as there are tasks"
            )
        if self.technique == "fisher":
            raise BadInput("fisher needs a Fisher diagonal of every expert, which a stream does not keep; not in TIME")
        weighted = self.recency != "uniform" or self.reverse
        if weighted and (self.deploy != "all" or not technique.weighted):
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


def loop(setting: Setting, strategy: Strategy) -> list[Model]:
    """The deployed model after each task: the loop of TIME's Figure 2."""
    experts: list[Step] = []
    running, deployed = None, []
    for task in range(len(setting.stream.chunks)):
        start = initial(setting, strategy, experts, running)
        expert = stages.train(setting, task, start)
        experts.append(expert)
        running = folded(setting, strategy, expert, running)
        deployed.append(final(strategy, experts, running))
    return deployed


def initial(setting: Setting, strategy: Strategy, experts: list[Step], running: Step | None) -> Step | None:
    """INIT: the start of the next task; before any task, and for zs always, the base (None)."""
    if not experts or strategy.init == "zs":
        return None
    if strategy.init == "ft":
        return experts[-1]
    if strategy.init == "ema":
        return running
    return stages.keep(setting, Blend(tuple(experts), strategy.technique, options=strategy.options))


def folded(setting: Setting, strategy: Strategy, expert: Step, running: Step | None) -> Step | None:
    """The moving average with one more expert; not made where nobody asks for it."""
    if "ema" not in (strategy.init, strategy.deploy):
        return None
    if running is None and strategy.fold_start == "first":
        return expert
    return stages.fold(setting, expert, running, strategy.technique, strategy.weight, strategy.options)


def final(strategy: Strategy, experts: list[Step], running: Step | None) -> Model:
    """DEPLOY: the model that is used after a task."""
    if strategy.deploy == "ft":
        return experts[-1]
    if strategy.deploy == "ema":
        return running
    count, weights = len(experts) + strategy.with_base, None
    if strategy.recency != "uniform" or strategy.reverse:
        weights = tuple(recency.weights(strategy.recency, count, strategy.reverse))
    return Blend(tuple(experts), strategy.technique, weights, strategy.options, strategy.with_base)


@dataclass(frozen=True)
class Plan:
    """Grading steps by (session, "subset" or "full"), and the columns their rows have in common."""

    profile: Profile
    graded: Mapping[tuple[int, str], Step]
    columns: Mapping[str, object]


def plan(
    stream: Stream,
    init: str = "ema",
    deploy: str = "ema",
    technique: str = "average",
    ema_weight: Number | None = None,
    *,
    profile: Profile,
    seed: int = 0,
    every: int = 1,
    full: bool = True,
    **more: object,
) -> Plan:
    """What a run computes. `more`: fields of `Strategy` (fold_start, options, …) and `Setting` (model, mixture, …).

    The subset is graded after each `every`-th task and the last one (0: never), all test images after the last one if
    `full`.
    """
    ours = {name: more.pop(name) for name in tuple(more) if name in Strategy.__dataclass_fields__}
    strategy = Strategy(init, deploy, technique, ema_weight, **{"fold_start": profile.temporal.fold_start} | ours)
    setting = _setting(profile, stream, seed, more)
    last, models = len(stream.chunks), [None, *loop(setting, strategy)]
    at = [t for t in range(last + 1) if every and (t % every == 0 or t == last)]
    graded = {(t, "subset"): stages.grade(setting, models[t]) for t in at}
    if full:
        graded[last, "full"] = stages.grade(setting, models[last], full=True)
    return Plan(profile, graded, {"method": f"{init}/{deploy}"} | _columns(setting) | _described(strategy))


def bound(stream: Stream, *, profile: Profile, seed: int = 0, **more: object) -> Plan:
    """The multitask upper bound ``joint``: one task of all pairs with all steps, pretraining 0.33 : update 0.67."""
    whole = Stream("joint", 0, (tuple(sorted(pair for chunk in stream.chunks for pair in chunk)),))
    setting = _setting(profile, whole, seed, {"mixture": (0.33, 0.67, 0.0)} | more)
    model, last = stages.train(setting, 0, None), len(stream.chunks)
    graded = {(last, "subset"): stages.grade(setting, model), (last, "full"): stages.grade(setting, model, full=True)}
    columns = _columns(setting) | {"order": stream.name, "tasks": last}
    return Plan(profile, graded, {"method": "joint"} | columns)


def zero_shot(stream: Stream, *, profile: Profile, seed: int = 0, **more: object) -> Plan:
    """The untouched base, as a run of no tasks (session 0)."""
    setting = _setting(profile, stream, seed, more)
    graded = {(0, "subset"): stages.grade(setting, None), (0, "full"): stages.grade(setting, None, full=True)}
    return Plan(profile, graded, {"method": "zero-shot"} | _columns(setting))


def run(stream: Stream, *strategy: object, profile: Profile, progress: Progress | None = None, **more) -> pd.DataFrame:
    """Tidy rows of one run; arguments as of `plan`."""
    return collect([plan(stream, *strategy, profile=profile, **more)], progress)


def collect(plans: Iterable[Plan], progress: Progress | None = None) -> pd.DataFrame:
    """Compute plans side by side; rows ``ka``, ``zs``, ``gm`` (task mean) of every session, ``accuracy`` by set last.

    Columns besides the contract's: session, images (subset, full) and those of `plan`.
    """
    plans = list(plans)
    steps = [step for each in plans for step in each.graded.values()]
    store.build(steps, plans[0].profile.workers if plans else 1, progress)
    frames = [_rows(each, *where, step) for each in plans for where, step in each.graded.items()]
    return pd.concat(frames, ignore_index=True)


def _rows(plan: Plan, session: int, images: str, step: Step) -> pd.DataFrame:
    found, time = files.read_json(step.folder / steps.ACCURACY), plan.profile.temporal
    accuracy, sizes = found["accuracy"], found["n"]
    fixed = dict(plan.columns) | {"session": session, "images": images}
    groups = {"ka": time.adaptation, "zs": [name for name in time.heldout if name in accuracy]}
    score = {"ka": metrics.knowledge_accumulation, "zs": metrics.zero_shot_retention}
    values = {m: score[m](accuracy[name] for name in names) for m, names in groups.items() if names}
    counted = {metric: sum(sizes[name] for name in names) for metric, names in groups.items()}
    if len(values) == 2:
        values["gm"] = metrics.geometric_mean(values["ka"], values["zs"])
        counted["gm"] = counted["ka"] + counted["zs"]
    frames = [results.rows({"mean": v}, metric=m, n=counted[m], **fixed) for m, v in values.items()]
    if images == "full":
        frames.append(results.rows(accuracy, metric="accuracy", n=sizes, **fixed))
    return pd.concat(frames, ignore_index=True)


def _setting(profile: Profile, stream: Stream, seed: int, more: Mapping) -> Setting:
    unknown = sorted(more.keys() - (Setting.__dataclass_fields__.keys() - {"profile", "stream", "seed"}))
    if unknown:
        raise BadInput(f"temporal: expected arguments of plan, Strategy and Setting, found {unknown[0]!r}")
    return Setting(profile, stream, seed, **more)


def _columns(setting: Setting) -> dict[str, object]:
    mixture = ":".join(f"{share:g}" for share in setting.mixture)
    about = {"seed": setting.seed, "model": setting.model, "order": setting.stream.name}
    return about | {"tasks": len(setting.stream.chunks), "compute": setting.compute, "mixture": mixture}


def _described(strategy: Strategy) -> dict[str, object]:
    named = {"init": strategy.init, "deploy": strategy.deploy, "technique": strategy.technique}
    folds = "ema" in (strategy.init, strategy.deploy)
    named |= {"ema_weight": strategy.weight if folds else None, "fold_start": strategy.fold_start if folds else ""}
    weights = f"{strategy.recency}{' reversed' if strategy.reverse else ''}" if strategy.deploy == "all" else ""
    options = ", ".join(f"{key} {value}" for key, value in sorted(strategy.options.items()))
    return named | {"recency": weights, "with_base": strategy.with_base, "options": options}
