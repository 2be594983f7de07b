"""ConDU as a deployment of TIME: all experts of a stream in one delta, decoupled for each image that needs them.

Every task starts from the base (init ``zs``), because a delta must be a delta from there; these are the experts that
TIME's offline cells merge, so nothing is trained here. After each task what has been kept is decoupled and unified with
the newcomer. Who answers an image is the business of `decoupled_steps`; scores are TIME's.
"""

from collections.abc import Iterable, Sequence

import pandas as pd

from clipmerge import files
from clipmerge.errors import BadInput
from clipmerge.study import experts, results
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import features, sessions
from clipmerge.study.time import decoupled_steps, pipeline, streams
from clipmerge.study.time.loop import Plan
from clipmerge.study.time.pipeline import Setting

BANKS = ("condu-ft", "experts")
RULES = decoupled_steps.RULES


def trained(setting: Setting) -> list[Step]:
    """The expert of every task, each trained from the base."""
    return [pipeline.train(setting, task, None) for task in range(len(setting.stream.chunks))]


def unified(setting: Setting) -> list[Step]:
    """What is kept after each task: one delta and the triggers of all tasks so far."""
    kept: list[Step] = []
    for number, newcomer in enumerate(trained(setting), start=1):
        inputs = {"newcomer": newcomer} | ({"earlier": kept[-1]} if kept else {})
        config = {"rescaler": setting.profile.mtil.rescaler}
        kept.append(Step(sessions.extend, f"{setting.label}/unified/{number:03d}", config, inputs))
    return kept


def grade(setting: Setting, bank: str = "condu-ft", tasks: int | None = None) -> Step:
    """All test images of TIME's sets, graded by the experts of the first `tasks` tasks (None: all) under every rule.

    `bank`: the experts decoupled from what ConDU has kept, or themselves (``experts``), which takes a delta each.
    """
    if bank not in BANKS:
        raise BadInput(f"bank: expected one of {', '.join(BANKS)}; found {bank!r}")
    total = len(setting.stream.chunks)
    tasks = total if tasks is None else tasks
    if not 1 <= tasks <= total:
        raise BadInput(f"tasks: expected 1 to {total}, found {tasks}")
    sets = pipeline.sets(setting, "full")
    names = [entry["data"]["task"] for entry in sets]
    config = {"model": setting.model, "compute": setting.profile.compute.numerics, "k": setting.profile.mtil.k}
    config |= {"sets": sets, "chunks": [streams.by_dataset(chunk) for chunk in setting.stream.chunks[:tasks]]}
    inputs = experts.base_inputs(setting.model)
    inputs |= {"features": features.of_base(setting.profile, names, setting.model)}
    condu = bank == "condu-ft"
    inputs |= {"session": unified(setting)[tasks - 1]} if condu else sessions.numbered(trained(setting)[:tasks])
    return Step(decoupled_steps.grade, f"{setting.label}/{bank}", config, inputs)


def plan(setting: Setting, bank: str = "condu-ft", rules: Sequence[str] = RULES) -> list[Plan]:
    """A plan for `loop.collect` for each rule, after the last task; all rules are graded by one step."""
    step, last = grade(setting, bank), len(setting.stream.chunks)
    columns = {"method": bank} | setting.columns | {"init": "zs", "deploy": bank}
    graded = {(last, "full"): step}
    return [Plan(setting.profile, columns | {"rule": rule}, graded, f"{rule}.json") for rule in rules]


def passes(plans: Iterable[Plan]) -> pd.DataFrame:
    """Tidy rows of computed plans, metric ``passes``: forward passes an image of each set takes, on average."""
    frames = []
    for each in plans:
        for (session, images), step in each.graded.items():
            found = files.read_json(step.folder / each.file)
            fixed = {**each.columns, "session": session, "images": images}
            frames.append(results.rows(found["passes"], metric="passes", n=found["n"], **fixed))
    return pd.concat(frames, ignore_index=True)
