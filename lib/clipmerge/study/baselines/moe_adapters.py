"""MoE-Adapters (Yu et al., arXiv 2403.11549): a frozen CLIP, one mixture of adapters a block, one router a task.

After a task its two busiest experts in each block are frozen, so that later tasks may use but not change them
(`mixture`). Which router an image takes is decided by autoencoders, or it is answered zero-shot (`ddas`): nobody is
ever told which task an image is from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from clipmerge import files
from clipmerge.clip import finetune, models
from clipmerge.clip.recipes import Finetune
from clipmerge.study import experts, profiles
from clipmerge.study.baselines import ddas, mixture, reference
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import features, grading, panel, sessions, voting
from clipmerge.study.condu.contract import Session, method

ADAPTERS = "adapters.safetensors"


@dataclass(frozen=True)
class Options:
    """experts: in each block of either tower; rank: of each (the authors' scripts: 22, 64).

    lr: learning rate (their scripts: 1e-4 to 5e-3 by task, mostly 1e-3; at few shots 1e-4 to 1e-2), and that of tasks
    that have another. code: width of a gate's autoencoder; steps: of its training (theirs: 300, the reference's 1,000);
    images: of the reference that one of them learns (theirs: TinyImageNet's 100,000); quantile: of a task's validation
    images that it must recognise, in place of the authors' threshold on the features of another network.
    """

    experts: int = 22
    rank: int = 64
    lr: float = 1e-3
    few_shot_lr: float = 5e-3
    lr_by_task: Mapping[str, float] = field(default_factory=dict)
    few_shot_lr_by_task: Mapping[str, float] = field(default_factory=dict)
    code: int = 100
    steps: int = 300
    images: int = 100000
    quantile: float = 0.95


def _config(session: Session) -> dict:
    options = session.options(Options)
    return {"shape": [options.experts, options.rank, len(session.order)]}


def recipe(session: Session) -> Finetune:
    """The recipe of every expert, at the adapters' own rate; nothing decays, for frozen experts must not."""
    options, few = session.options(Options), session.learner.way == "few_shot"
    rates, common = options.lr_by_task, options.lr
    if few:
        rates, common = options.few_shot_lr_by_task, options.few_shot_lr
    usual = profiles.recipe(session.profile, session.task, session.learner.way)
    return replace(usual, lr=rates.get(session.task, common), weight_decay=0.0)


def gates(session: Session) -> list[Step]:
    """The autoencoders of the reference and of the tasks seen; each depends on no other and on no order."""
    options, profile = session.options(Options), session.profile
    config = {"code": options.code, "steps": options.steps}
    pairs = reference.step(profile, options.images, texts=1)
    found = [Step(ddas.fit_reference, "moe-adapters/gate/reference", config, {"reference": pairs}, session.seed)]
    seen = features.of_base(profile, session.order, session.model)
    config |= {"q": options.quantile, **session.learner.config}
    for task in session.order[: session.number]:
        own = config | experts.task_config(profile, task)
        found.append(Step(ddas.fit, f"moe-adapters/gate/{task}", own, {"features": seen}, session.seed))
    return found


def grading_step(session: Session, kept: Sequence[Step]) -> Step:
    """Grade a session: its adapters, and the gates of the tasks seen."""
    config = experts.config(session.profile, session.order, session.model) | _config(session)
    inputs = experts.base_inputs(session.model) | sessions.numbered(gates(session), "gate")
    inputs |= {"features": features.of_base(session.profile, session.order, session.model), "adapters": kept[-1]}
    return Step(grade, session.label("grade"), config, inputs)


@method("moe-adapters", answers=grading_step, chain=True)
def keep(session: Session) -> Step:
    """The adapters: this task's router and whatever experts are still free are trained."""
    profile = session.profile
    config = {"model": session.model, "compute": profile.compute.numerics, "number": session.number - 1}
    config |= {"recipe": recipe(session), **session.learner.config} | _config(session)
    inputs = experts.base_inputs(session.model, session.earlier)
    config |= experts.task_config(profile, session.task)
    return Step(learn, f"{session.name}/{session.task}", config, inputs, session.seed)


def learn(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: train the adapters on one task, freeze its busiest experts, write all adapters."""
    model = models.create(config["model"])
    data = experts.dataset(config)
    mixtures = mixture.attach(model, *config["shape"], seed)
    if "start" in inputs:
        mixtures.load_state_dict(files.load_tensors(inputs["start"] / ADAPTERS))
    mixture.choose(mixtures, config["number"])
    own = finetune.Recipe(**config["recipe"])
    index = experts.usable(config, data, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the routers' noise and of dropout
        log = finetune.tune(model, config["model"], data, own, seed, index=index)
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
    fitted = [files.load_tensors(inputs[key] / ddas.GATE) for key in sorted(inputs) if key.startswith("gate.")]
    tasks = [experts.dataset(entry) for entry in config["tasks"]]
    routes = {data.name: ddas.route(fitted, seen[f"z.{data.name}"]) for data in tasks}
    schemes = {grading.FULL: {name: F.one_hot(1 + route, len(fitted)).float() for name, route in routes.items()}}

    def members() -> Iterator[panel.Member]:
        yield panel.remembering(seen)
        for number in range(len(fitted) - 1):
            mixture.choose(mixtures, number)
            yield panel.looking(model, config["model"])

    asked = panel.ask(members(), tasks, schemes, heads=True)
    learned = {grading.FULL: len(fitted) - 1}
    grading.write(out, panel.grade(asked, schemes, voting.SPACES, learned), tasks)
