"""A short pretraining as a cached step, and the record of the full one that made the shipped weights."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from clipmerge import files, paths
from clipmerge.clip import pool, pretrain, web
from clipmerge.errors import BadInput
from clipmerge.study import results
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile

LOG = "log.json"


def brief(profile: Profile) -> dict:
    """The full recipe, shortened as the profile says; refuses one that pretrains nothing."""
    if profile.pretrain is None:
        raise BadInput(
            f"profile {profile.name}: expected a section pretrain, found null: {profile.model} comes pretrained, "
            "so there is nothing to repeat here"
        )
    return {**pretrain.recipe(), **asdict(profile.pretrain)}


def step(model: str, recipe: Mapping, stop: int | None = None) -> Step:
    """Pretrain `model` from random weights by `recipe`, to its end or only the first `stop` steps of it."""
    config = {"model": model, "recipe": dict(recipe), "stop": stop, "pool": files.digest(pool.recipe())}
    if "web" in recipe:
        config["web"] = web.digest(web.load())
    return Step(rerun, f"pretrain/{model}", config)


def rerun(out: Path, *, config: Mapping, inputs: Mapping[str, Path], seed: int) -> None:
    """Step function: weights and the loss of every step. The seed is the recipe's."""
    log = pretrain.run(config["model"], out, config["recipe"], progress=False, stop=config["stop"])
    files.write_json(out / LOG, [row["loss"] for row in log])
    (out / f"{config['model']}.checkpoint.safetensors").unlink()


def losses(folder: Path) -> list[float]:
    """Loss by step, as `rerun` has left it."""
    return files.read_json(folder / LOG)


def shipped(model: str) -> list[float]:
    """Loss by step of the pretraining that made the committed weights."""
    return pd.read_csv(paths.manifests() / "weights" / f"{model}.curve.csv").loss.tolist()


def watched(model: str) -> pd.DataFrame:
    """Tidy rows of how the held-out pairs fared when the committed weights were made (`pretrain.watch`), by step."""
    curve = pd.read_csv(paths.manifests() / "weights" / f"{model}.curve.csv").drop(columns="loss")
    long = curve.melt("step", var_name="metric").dropna().assign(step=lambda frame: frame.step + 1.0)
    fixed = {"method": "pretraining", "task": "held-out pairs", "seed": 0, "n": None, "source": "ours"}
    return results.tidy(long.assign(**fixed, model=model, setting="shipped"))


def about(model: str) -> dict:
    """The manifest of the committed weights: recipe, parameters, pairs seen, minutes it took."""
    return files.read_json(paths.manifests() / "weights" / f"{model}.json")


def curve(loss: list[float], model: str, setting: str, bins: int = 60) -> pd.DataFrame:
    """Tidy rows of a loss curve, averaged in bins of equal width on a logarithmic axis of steps.

    A bin's ``step`` counts from 1 and is the mean of the steps in it; the first bins hold a single step each.
    """
    edges = np.unique(np.geomspace(1, len(loss) + 1, bins + 1).round().astype(int))
    parts = [(np.arange(a, b), loss[a - 1 : b - 1]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    rows = [{"step": float(steps.mean()), "value": float(np.mean(values))} for steps, values in parts]
    fixed = {"method": "pretraining", "task": "pool", "metric": "loss", "seed": 0, "n": None, "source": "ours"}
    return results.tidy(pd.DataFrame(rows).assign(**fixed, model=model, setting=setting))
