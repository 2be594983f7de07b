"""Table 5: ConDU with one part replaced (`rules`), and the experts merged into one model for all tasks."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipmerge import files
from clipmerge.clip import models, prompts, training
from clipmerge.clip.datasets import Dataset
from clipmerge.errors import BadInput
from clipmerge.merge import deltas, techniques
from clipmerge.study import experts, profiles, results
from clipmerge.study.analysis import learned, rules
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import grading, protocol
from clipmerge.study.profiles import Profile

# Of one merged model nothing can be tuned here: the experts have seen every training image. Scales are published ones.
TECHNIQUES: Mapping[str, Mapping[str, float]] = {
    "ties": {"keep": 0.2, "scale": 1.0},  # arXiv 2306.01708
    "task_arithmetic": {"scale": 0.3},  # arXiv 2212.04089: 0.3 to 0.5 for many tasks
    "magmax": {"scale": 0.5},  # arXiv 2407.06322
    "fisher": {},
}
REFERENCES = ("zero-shot", "experts", "emr", "condu-ft", "average")  # graded for Table 1 already


def run(profile: Profile) -> pd.DataFrame:
    """Table 5: accuracy on every task after the last session (metric ``last``), by rule or technique, task and seed."""
    names = [*profile.inside.rules, *profile.inside.techniques]
    steps = {(name, seed): step(profile, name, seed) for name in names for seed in profile.seeds}
    store.build(steps.values(), profile.compute)
    frames = [protocol.last(profile, REFERENCES, profile.model, profile.seeds)]
    for (name, seed), graded in steps.items():
        accuracy, sizes = grading.read(graded.folder)
        fixed = {"method": name, "metric": "last", "seed": seed, "model": profile.model}
        frames.append(results.rows(results.with_mean(accuracy), n=sizes, **fixed))
    return pd.concat(frames, ignore_index=True)


def step(profile: Profile, name: str, seed: int) -> Step:
    """The step that grades one rule of `rules.RULES`, or one technique that merges all experts into one model."""
    config = experts.config(profile, profiles.order(profile))
    base = experts.base_inputs(profile.model)
    inputs = base | learned.tuned(profile, seed)
    label = name.replace("=", "-").replace(" ", "+")
    if name in rules.RULES:
        rule = rules.RULES[name]
        if "rescaler=" not in name:
            rule = replace(rule, rescaler=profile.mtil.rescaler)
        return Step(grade_rule, f"ablation/rule/{label}", config | {"rule": asdict(rule)}, inputs)
    if name not in TECHNIQUES:
        raise BadInput(f"ablation: expected one of {', '.join([*rules.RULES, *TECHNIQUES])}; found {name!r}")
    how = {"technique": name, "options": TECHNIQUES[name]}
    if name == "fisher":
        how |= {"batches": profile.inside.fisher_batches, "batch": profile.finetune.batch}
    merged = Step(merge, f"ablation/merge/{label}", config | how, inputs, seed if name == "fisher" else 0)
    return Step(grading.grade, f"ablation/grade/{label}", config, base | {"model": merged})


def grade_rule(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: learn all tasks by a rule and grade each by its own reconstruction, as after the last session."""
    backs = rules.learn(learned.changes(inputs), rules.Rule(**config["rule"]))
    learned.grade(out, config, backs)


def merge(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: merge all experts by a technique of the registry; leaves the merged model's delta.

    For "fisher" every weight counts by how much each task depends on it (Matena & Raffel, arXiv 2111.09832).
    """
    model = models.create(config["model"])
    model.logit_scale.requires_grad_(False)  # it was not tuned
    base = models.state(model)
    states = [deltas.apply_delta(base, change) for change in learned.changes(inputs)]
    options = dict(config["options"])
    if config["technique"] == "fisher":
        options["fishers"] = []
        for task, state in zip(config["tasks"], states, strict=True):
            model.load_state_dict(state)
            about = experts.dataset(task), config["batches"], config["batch"], seed
            options["fishers"].append(fisher(model, config["model"], *about))
    merged = techniques.merge(config["technique"], states, base, seed=seed, **options)
    files.save_tensors(out / experts.DELTA, deltas.delta(merged, base))


def fisher(model: nn.Module, name: str, data: Dataset, batches: int, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Diagonal of the Fisher information, E_x E_{y ~ p(y|x)} [∂ log p(y|x) / ∂θ]², from a few training batches.

    Labels are drawn from the model's own answers, under which the score ∂ log p has mean zero: mixed terms of a batch
    vanish on average, so (size of the batch) · (gradient of its mean loss)² is an unbiased estimate and no gradient per
    image is needed. Keys and shapes are those of the state dict's floating-point entries; whatever is frozen has zeros.
    """
    diagonal = {key: torch.zeros_like(x) for key, x in model.state_dict().items() if x.is_floating_point()}
    free = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    tokens = prompts.tokens(name, data.classes, data.templates[0])
    for turn in range(batches):
        generator = training.generator(seed, turn)
        images = data.train_images[torch.randint(len(data.train_images), (batch,), generator=generator)]
        heads = models.encode_text(model, tokens, pieces=1 + len(tokens) // models.TEXTS)
        logits = model.logit_scale.exp() * models.encode_image(model, images) @ heads.T
        labels = torch.multinomial(logits.detach().softmax(1), 1, generator=generator).squeeze(1)
        gradients = torch.autograd.grad(F.cross_entropy(logits, labels), list(free.values()), allow_unused=True)
        for key, gradient in zip(free, gradients, strict=True):
            if gradient is not None:
                diagonal[key] += batch / batches * gradient.square()
    return diagonal
