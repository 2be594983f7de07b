"""MoE-Adapters (Yu et al., arXiv 2403.11549): a frozen CLIP, one mixture of adapters a block, one router a task.

After a task its two busiest experts in each block are frozen, so that later tasks may use but not change them
(`mixture`). Which router an image takes is decided by autoencoders, or it is answered zero-shot (`ddas`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipmerge import files
from clipmerge.clip import evaluate, finetune, models
from clipmerge.study import experts, profiles
from clipmerge.study.baselines import ddas, mixture
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import features, grading, sessions
from clipmerge.study.condu.contract import Session, method

ADAPTERS = "adapters.safetensors"


@dataclass(frozen=True)
class Options:
    """experts: in each block of either tower; rank: of each (the authors' scripts: 22, 64).

    code: width of a gate's autoencoder; steps: of its training; quantile: of a task's validation images that it must
    recognise, in place of the authors' threshold of 0.0655 on the features of another network.
    """

    experts: int = 22
    rank: int = 64
    code: int = 100
    steps: int = 1000
    quantile: float = 0.95


def _config(session: Session) -> dict:
    options = session.options(Options)
    return {"shape": [options.experts, options.rank, len(session.order)]}


def gate(session: Session, task: str) -> Step:
    """The autoencoder of one task; it depends on no other and on no order."""
    options = session.options(Options)
    config = {"code": options.code, "steps": options.steps, "q": options.quantile}
    config |= experts.task_config(session.profile, task)
    seen = features.of_base(session.profile, session.order, session.model)
    return Step(ddas.fit, f"moe-adapters/gate/{task}", config, {"features": seen}, session.seed)


def grading_step(session: Session, kept: Sequence[Step]) -> Step:
    """Grade a session: its adapters, and the gates of the tasks seen."""
    config = experts.config(session.profile, session.order, session.model) | _config(session)
    gates = [gate(session, task) for task in session.order[: session.number]]
    inputs = experts.base_inputs(session.model) | sessions.numbered(gates, "gate")
    inputs |= {"features": features.of_base(session.profile, session.order, session.model), "adapters": kept[-1]}
    return Step(grade, session.label("grade"), config, inputs)


@method("moe-adapters", answers=grading_step, chain=True)
def keep(session: Session) -> Step:
    """The adapters: this task's router and whatever experts are still free are trained."""
    profile = session.profile
    config = {"model": session.model, "compute": profile.compute.numerics, "number": session.number - 1}
    config |= {"recipe": profiles.recipe(profile, session.task)} | _config(session)
    inputs = experts.base_inputs(session.model, session.earlier)
    name = f"{session.method}/{experts.label(session.model)}/{session.task}"
    return Step(learn, name, config | experts.task_config(profile, session.task), inputs, session.seed)


def learn(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: train the adapters on one task, freeze its busiest experts, write all adapters."""
    model = models.create(config["model"])
    data = experts.dataset(config)
    mixtures = mixture.attach(model, *config["shape"], seed)
    if "start" in inputs:
        mixtures.load_state_dict(files.load_tensors(inputs["start"] / ADAPTERS))
    mixture.choose(mixtures, config["number"])
    recipe = finetune.Recipe(**config["recipe"])
    log = finetune.tune(model, config["model"], data, recipe, seed)
    for each in mixtures:
        each.freeze()
    files.save_tensors(out / ADAPTERS, models.state(mixtures))
    files.write_json(out / experts.LOG, log)


def grade(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: accuracy on every task, each image answered with the router its gate picks, or zero-shot."""
    model = models.create(config["model"])
    mixtures = mixture.attach(model, *config["shape"], seed=0)
    mixtures.load_state_dict(files.load_tensors(inputs["adapters"] / ADAPTERS))
    model.eval()
    seen = features.load(inputs["features"])
    gates = [files.load_tensors(inputs[key] / ddas.GATE) for key in sorted(inputs) if key.startswith("gate.")]
    tasks = [experts.dataset(entry) for entry in config["tasks"]]
    answers = {data.name: features.logits(seen, data.name) for data in tasks}
    routes = {data.name: ddas.route(gates, seen[f"z.{data.name}"]) for data in tasks}
    for number in range(len(gates)):
        mixture.choose(mixtures, number)
        for data in tasks:
            rows = routes[data.name] == number
            if rows.any():
                answers[data.name][rows] = evaluate.test_logits(model, config["model"], data, rows)
    graded = {
        (grading.FULL, "own", data.name): evaluate.accuracy(answers[data.name], data.test_labels) for data in tasks
    }
    grading.write(out, graded, tasks)
