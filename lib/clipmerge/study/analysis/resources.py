"""What ConDU takes (its Appendix I): seconds and bytes against the number of tasks, and asking K experts at once.

Seconds are measured by cached steps (`timing`): one machine, once. Bytes follow from shapes: ConDU keeps one fp32 delta
for all tasks and, for each task, a mask of one bit per coordinate, a rescaler and a set of prototypes. The base is
needed either way and not counted.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from clipmerge import files
from clipmerge.clip import manifests, models
from clipmerge.merge.bitmask import packed_size
from clipmerge.study import experts, profiles, results
from clipmerge.study.analysis import learned, stacking, timing
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import protocol
from clipmerge.study.profiles import Profile

FLOAT = 4  # bytes


def plan(profile: Profile, seed: int) -> dict[str, Step]:
    """The three steps that measure; answers are timed over the classes of the first task."""
    setting, label = profile.cost, f"resources/{experts.label(profile.model)}"
    base = experts.base_inputs(profile.model)
    shared = experts.config(profile, profiles.order(profile)) | {"repeats": setting.repeats}
    tasks = shared.pop("tasks")
    tune = shared | {"recipe": profiles.recipe(profile), "steps": setting.steps, "tasks": tasks}
    merge = {"repeats": setting.repeats, "rescaler": profile.mtil.rescaler}
    answer = shared | {"batches": setting.batches, "k": setting.k, "task": tasks[0]}
    session = {"session": protocol.kept(profile, "condu-ft", seed)[-1]}
    return {
        "tuning": Step(timing.tuning, f"{label}/tuning", tune, base),
        "merging": Step(timing.merging, f"{label}/merging", merge, learned.tuned(profile, seed)),
        "answering": Step(stacking.measure, f"{label}/answering", answer, base | session),
    }


def run(profile: Profile, seed: int = 0) -> pd.DataFrame:
    """Tidy rows. Metrics ``seconds`` and ``bytes``, ``part`` says of what.

    ``tune`` (by task: seconds of a step × steps of the recipe), ``extend`` (decouple and unify, session by session),
    ``decouple`` (all tasks of a session), ``store`` (bytes after each session: methods ``condu-ft``, ``experts``), and
    ``ask`` with columns ``way, batch, k``.
    """
    steps = plan(profile, seed)
    store.build(steps["merging"].inputs.values(), profile.compute)
    store.build(steps.values())  # one at a time: they measure
    times = {name: files.read_json(step.folder / timing.TIMES) for name, step in steps.items()}
    tune = {task: profile.finetune.steps * seconds for task, seconds in times["tuning"].items()}
    fixed = {"seed": seed, "model": profile.model}
    tuning = results.rows(results.with_mean(tune), method="condu-ft", metric="seconds", part="tune", **fixed)
    rows = [
        {"method": "condu-ft", "metric": "seconds", "part": part, "session": t, "value": value}
        for part in ("extend", "decouple")
        for t, value in enumerate(times["merging"][part], start=1)
    ]
    rows += [
        {"method": "condu-ft", "metric": metric, "part": "ask", "value": answer[metric]}
        | {column: answer[column] for column in ("way", "batch", "k")}
        for answer in times["answering"]
        for metric in ("seconds", "bytes")
    ]
    others = pd.DataFrame(rows + stored(profile)).assign(task="mean", n=pd.NA, source="ours", **fixed)
    return pd.concat([tuning, results.tidy(others)], ignore_index=True)


def stored(profile: Profile) -> list[dict]:
    """Bytes of what is kept after each session, by ConDU and by who keeps all experts."""
    model = models.create(profile.model)
    sizes = [tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point()]
    classes, rows = 0, []
    for t, task in enumerate(profiles.order(profile), start=1):
        classes += len(manifests.load(task).classes)
        shared = prototypes(classes, model.visual.output_dim)
        fixed = {"metric": "bytes", "part": "store", "session": t}
        rows.append(fixed | {"method": "condu-ft", "value": condu(sizes, t) + FLOAT * t + shared})
        rows.append(fixed | {"method": "experts", "value": t * expert(sizes) + shared})
    return rows


def share(rows: pd.DataFrame) -> pd.Series:
    """Decouple and unify as per cent of tuning, by session: ``extend`` of session t over the tuning of its task."""
    tune = rows[(rows.part == "tune") & (rows.task != "mean")].value.to_numpy()
    extend = rows[rows.part == "extend"].set_index("session").value
    return 100 * extend / tune


def expert(sizes: Iterable[int]) -> int:
    """One whole expert: fp32 for every coordinate of tensors of the given sizes."""
    return FLOAT * sum(sizes)


def condu(sizes: Sequence[int], tasks: int) -> int:
    """The unified delta and the packed masks of `tasks` tasks, every tensor of a mask starting on a byte of its own.

    Rescalers and prototypes are apart.
    """
    return expert(sizes) + tasks * sum(packed_size(size) for size in sizes)


def prototypes(classes: int, dim: int) -> int:
    """One fp32 vector of the embedding for each class."""
    return FLOAT * classes * dim


def lora(shapes: Mapping[str, tuple[int, ...]], rank: int) -> int:
    """The two factors, r × inputs and outputs × r, for the matrices of both towers' MLPs (`c_fc`, `c_proj`)."""
    adapted = [shape for name, shape in shapes.items() if name.endswith(("c_fc.weight", "c_proj.weight"))]
    return FLOAT * rank * sum(sum(shape) for shape in adapted)
