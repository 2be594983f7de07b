"""Who should answer: three gates (`gates`) compared by routing accuracy, calibration and what accuracy they lead to."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clipmerge.errors import BadInput
from clipmerge.study import results
from clipmerge.study.cache import store
from clipmerge.study.condu import voting
from clipmerge.study.condu.panel import Panel
from clipmerge.study.profiles import Profile
from clipmerge.study.routing import ensemble, gates

BINS = 10
RULES = ("nearest K and base", "first choice alone", "mixture")


def reliability(
    confidence: Float[Tensor, " n"],
    right: Bool[Tensor, " n"],
    share: Float[Tensor, " n"] | None = None,
    bins: int = BINS,
) -> pd.DataFrame:
    """Bins of equal width: columns bin, confidence and accuracy (means within the bin), share; empty ones left out.

    `share` weighs the images (default: all the same) and sums to one.
    """
    if not len(confidence) or not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise BadInput("confidence: expected at least one probability between 0 and 1")
    weight = torch.full(confidence.shape, 1 / len(confidence), dtype=torch.float64) if share is None else share.double()
    bin_ = (confidence.double() * bins).ceil().clamp(1, bins).long() - 1  # bins are (low, high], as usual
    table = pd.DataFrame({"bin": bin_.numpy(), "share": weight.numpy()})
    table["confidence"] = confidence.double().numpy() * table.share
    table["accuracy"] = right.double().numpy() * table.share
    table = table.groupby("bin").sum()
    table[["confidence", "accuracy"]] = table[["confidence", "accuracy"]].div(table["share"], axis=0)
    return table.reset_index()[["bin", "confidence", "accuracy", "share"]]


def ece(table: pd.DataFrame) -> float:
    """Expected calibration error (0 to 1): mean gap between confidence and accuracy over the bins of `reliability`."""
    return float((table.share * (table.accuracy - table.confidence).abs()).sum())


def rule(name: str, p: Float[Tensor, "n tasks"], k: int) -> Float[Tensor, "n members"]:
    """Weights from a gate's probabilities: ConDU's rule (rank only), the first choice alone, or p itself as weights."""
    if name == "mixture":
        return torch.nn.functional.pad(p, (1, 0))
    if name not in RULES:
        raise BadInput(f"rule: expected one of {', '.join(RULES)}; found {name!r}")
    return voting.weights(p, k) if name == RULES[0] else voting.weights(p, 1, base=False)


def run(profile: Profile, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """Tidy rows of three gates: metrics ``routing`` (first choice right), ``ece``, and accuracies by ``rule``.

    Metrics ``own`` and ``union`` are accuracies of ConDU's decoupled experts after the last session under each rule.
    Metric ``reliability`` holds the diagram: value = accuracy of the images in a bin, columns ``bin``, ``confidence``
    and ``share``. In ``ece`` and the diagram every task counts the same.
    """
    seeds = profile.seeds if seeds is None else seeds
    folders = _fitted(profile, seeds)
    frames = []
    for seed, folder in zip(seeds, folders, strict=True):
        panel = ensemble.load(profile, "condu-ft", seed)
        gate = gates.load(folder)
        p = {
            kind: {u: gates.probabilities(gate, kind, panel.members[0][f"z.{u}"], panel.order) for u in panel.order}
            for kind in gates.KINDS
        }
        frames.append(_accuracies(panel, p, profile.mtil.k).assign(seed=seed))
        frames.append(pd.concat([_calibration(panel, kind, by) for kind, by in p.items()]).assign(seed=seed))
    frame = pd.concat(frames, ignore_index=True)
    return results.tidy(frame.assign(method="condu-ft", source="ours", model=profile.model))


def chosen(profile: Profile, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """What validation images chose: τ of the calibrated cosine and the router's inverse regularisation, by seed."""
    seeds = profile.seeds if seeds is None else seeds
    folders = _fitted(profile, seeds)
    loaded = [gates.load(folder) for folder in folders]
    values = {key: [gate[key].item() for gate in loaded] for key in ("tau", "strength")}
    return pd.DataFrame(values, index=pd.Index(list(seeds), name="seed"))


def _fitted(profile: Profile, seeds: Sequence[int]) -> list[Path]:
    return store.build([gates.step(profile, ensemble.base_step(profile), seed) for seed in seeds], profile.compute)


def _accuracies(panel: Panel, p: Mapping[str, Mapping[str, Tensor]], k: int) -> pd.DataFrame:
    """Routing accuracy of each gate and accuracy of each gate under each rule, by task and as mean."""
    schemes = {(kind, r): {u: rule(r, each, k) for u, each in by.items()} for kind, by in p.items() for r in RULES}
    graded = ensemble.grade(panel, schemes).rename(columns={"space": "metric"})
    graded[["gate", "rule"]] = pd.DataFrame(graded.pop("scheme").tolist(), index=graded.index)
    found = [
        {"gate": kind, "rule": None, "metric": "routing", "task": u, "value": value, "n": len(panel.labels[u])}
        for kind, by in p.items()
        for u, value in ensemble.routing(panel, by).items()
    ]
    return ensemble.with_means(pd.concat([graded, pd.DataFrame(found)], ignore_index=True))


def _calibration(panel: Panel, kind: str, by: Mapping[str, Tensor]) -> pd.DataFrame:
    """The reliability diagram of one gate over all tasks, and its ECE in per cent."""
    p, task = gates.stack([by[u] for u in panel.order])
    confidence, choice = p.max(1)
    table = reliability(confidence, choice == task, gates.balance(task, p.shape[1]))
    fixed = {"gate": kind, "task": "mean", "n": len(task)}
    rows = table.rename(columns={"accuracy": "value"}).assign(metric="reliability", **fixed)
    rows[["value", "confidence", "share"]] *= 100
    return pd.concat([pd.DataFrame([{"metric": "ece", "value": 100 * ece(table), **fixed}]), rows], ignore_index=True)
