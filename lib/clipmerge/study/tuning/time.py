"""How TIME's learning rate and budget at the laptop profile were chosen: on validation images, never on test images.

    python -m clipmerge.study.tuning.time --rates 1e-4 3e-4 1e-3 --steps 200   # writes data_manifests/tuning/loop.csv

Three adaptation sets (`UNSEEN`: drawings, like the real held-out sets) are taken out of the stream and stand in for the
held-out ones; a fifth of every set's training images is held out and graded. The reference to beat, sequential
fine-tuning with replay, chooses: the rate with its best geometric mean.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from clipmerge import files, paths
from clipmerge.study import profiles
from clipmerge.study.profiles import Profile
from clipmerge.study.time import loop, streams

UNSEEN = ("food", "icons", "critters")
HELD_OUT = 0  # seed of the validation split


def trial(profile: Profile, rate: float, steps: int) -> Profile:
    """The profile with another rate and budget, and `UNSEEN` as what is held out."""
    seen = tuple(name for name in profile.temporal.adaptation if name not in UNSEEN)
    time = replace(profile.temporal, lr=rate, steps=steps, adaptation=seen, heldout=UNSEEN)
    return replace(profile, temporal=time)


def run(profile: Profile, rates: Sequence[float], budgets: Sequence[int], seed: int = 0) -> pd.DataFrame:
    """Rows ``ka, zs, gm`` on validation images before and after the stream, by rate and budget."""
    frames = []
    for steps in budgets:
        for rate in rates:
            tried = trial(profile, rate, steps)
            setting = loop.Setting(tried, streams.make(tried, seed=seed), seed, held_out=HELD_OUT)
            reference = loop.plan(setting, loop.Strategy("ft", "ft"), every=0)
            rows = loop.collect([reference, loop.zero_shot(setting)])
            frames.append(rows[(rows.task == "mean") & (rows.images == "full")].assign(lr=rate, steps=steps))
    kept = ["method", "task", "metric", "seed", "value", "n", "source", "model", "tasks", "steps", "lr"]
    return pd.concat(frames, ignore_index=True)[kept]


def main() -> None:
    """Command line of the sweep."""
    parser = argparse.ArgumentParser(description="Choose TIME's learning rate and budget on validation images.")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--rates", type=float, nargs="+", required=True)
    parser.add_argument("--steps", type=int, nargs="+", required=True)
    arguments = parser.parse_args()
    rows = run(profiles.load(arguments.profile), arguments.rates, arguments.steps)
    path = paths.manifests() / "tuning" / "loop.csv"
    files.write_text(path, rows.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    means = rows.pivot_table(index=["steps", "lr"], columns=["method", "metric"], values="value")
    print(means.round(2).to_string())


if __name__ == "__main__":
    main()
