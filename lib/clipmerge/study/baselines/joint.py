"""Joint training: one model on all tasks at once, as many steps as all experts together. What merging would like to be.

Every step trains on a batch of one task, drawn at random with equal chances (balanced by task, not by images), over
that task's own classes. It is a bound for single models, not a continual learner: it sees all data all the time.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from clipmerge.clip import finetune, models, training
from clipmerge.study import experts, profiles
from clipmerge.study.cache.step import Step
from clipmerge.study.condu.contract import Session, method

PARTS = 4  # steps of the cache, so that an interrupted run loses a quarter
STATE = "state.safetensors"


@method("joint", answers="single", sessions="last", chain=True)
def keep(session: Session) -> Step:
    """The last part of one training run on all tasks; the earlier parts are its inputs."""
    recipe = profiles.recipe(session.profile)
    config = experts.config(session.profile, sorted(session.order), session.model)
    config |= {"recipe": replace(recipe, steps=recipe.steps * len(session.order))}
    earlier: dict[str, Step] = {}
    for part in range(1, PARTS + 1):
        inputs = experts.base_inputs(session.model) | earlier
        done = Step(train, f"{session.name}/{part}", config | {"until": part / PARTS}, inputs, session.seed)
        earlier = {"earlier": done}
    return done


def train(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: train until a share of all steps is done; write state and optimiser, or at the end the delta."""
    model, base = experts.learner(config, inputs)
    recipe = finetune.Recipe(**config["recipe"])
    tasks = [experts.dataset(task) for task in config["tasks"]]
    asked = [finetune.phrasings(config["model"], data, recipe.templates) for data in tasks]
    model.train().logit_scale.requires_grad_(False)
    optimizer = training.adamw(model, recipe.lr, recipe.weight_decay, (recipe.beta1, recipe.beta2))
    begun = "earlier" in inputs
    start, log = training.resume(inputs["earlier"] / STATE, model, optimizer) if begun else (0, [])
    for step in range(start, round(config["until"] * recipe.steps)):
        generator = training.generator(seed, step)
        i = int(torch.randint(len(tasks), (), generator=generator))
        pick = torch.randint(len(tasks[i].train_labels), (recipe.batch,), generator=generator)
        images = finetune.crop(tasks[i].train_images[pick], recipe.scale_min, generator)
        tokens = finetune.one_of(asked[i], generator)
        labels, texts = finetune.among(tasks[i].train_labels[pick], tokens, recipe.classes, generator)
        value = finetune.class_loss(model, images, labels, texts, recipe.label_smoothing)
        training.descend(model, optimizer, value, training.rate(step, recipe.steps, recipe.lr, recipe.warmup))
        log.append({"step": step, "loss": value.item()})
    if config["until"] == 1:
        experts.leave(out, models.state(model), base, log)
    else:
        training.save(out / STATE, model, optimizer, len(log), log)
