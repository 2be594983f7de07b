"""The evaluator: members who answer, weights that say who is asked about which image, and what counts as right.

Every rule of inference here is a matrix of weights [images, members]: a task's own expert alone (it is known), the base
and the K nearest experts (it is not), a router, a single model for everything. A *scheme* is such a matrix for each
task; many of them are graded at once, in the label space of the task, of all tasks seen, or of all tasks (`voting`).
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from clipmerge.clip import evaluate
from clipmerge.clip.datasets import Dataset
from clipmerge.study.condu import voting

CHUNK = 256  # images voted on at a time
Schemes = Mapping[Hashable, Mapping[str, Float[Tensor, "_ members"]]]  # name → task → weights
Seen = Mapping[str, Tensor]  # ``z.<task>`` and ``head.<task>``, of the tasks a member is asked about
Member = Callable[[Dataset, Bool[Tensor, " n"]], dict[str, Tensor]]  # task, images it is asked about → z, head


@dataclass(frozen=True)
class Panel:
    """Members (the base first, then experts in the order of learning) by what they see, and the truth."""

    order: tuple[str, ...]
    members: tuple[Seen, ...]
    labels: Mapping[str, Int64[Tensor, " _"]]


def of(tasks: Sequence[Dataset], *members: Seen) -> Panel:
    """A panel of members that have seen all test images."""
    labels = {data.name: data.test_labels for data in tasks}
    return Panel(tuple(labels), members, labels)


def looking(model: nn.Module, name: str) -> Member:
    """A member that looks when it is asked."""

    def look(data: Dataset, rows: Bool[Tensor, " n"]) -> dict[str, Tensor]:
        some = evaluate.features(model, data.test_images[rows])
        z = torch.zeros(len(rows), some.shape[1])
        z[rows] = some
        return {f"z.{data.name}": z, f"head.{data.name}": evaluate.head(model, name, data)}

    return look


def remembering(seen: Seen) -> Member:
    """A member that has looked already."""
    return lambda data, _: {key: seen[key] for key in (f"z.{data.name}", f"head.{data.name}")}


def ask(members: Iterable[Member], tasks: Sequence[Dataset], schemes: Schemes, heads: bool = False) -> Panel:
    """Show every member, one after the other, the images for which some scheme gives it weight.

    `heads`: whoever is asked anything is asked for the heads of all tasks (other label spaces than a task's own).
    """
    views = []
    for number, member in enumerate(members):
        asked = {data.name: _asked(schemes, data.name, number) for data in tasks}
        busy = heads and any(rows.any() for rows in asked.values())
        view: dict[str, Tensor] = {}
        for data in tasks:
            if asked[data.name].any() or busy:
                view |= member(data, asked[data.name])
        views.append(view)
    return of(tasks, *views)


def _asked(schemes: Schemes, task: str, member: int) -> Bool[Tensor, " n"]:
    return torch.stack([weights[task][:, member] != 0 for weights in schemes.values()]).any(0)


def grade(
    panel: Panel,
    schemes: Schemes,
    spaces: Sequence[str] = ("own",),
    learned: Mapping[Hashable, int] | None = None,
) -> dict[tuple[Hashable, str, str], float]:
    """Accuracy (per cent) by scheme, label space and task; a task that the schemes leave out is not graded.

    `learned` gives the number of tasks seen by scheme, where it is not all of them (for the space ``seen``).
    """
    counts = [(learned or {}).get(name, len(panel.order)) for name in schemes]
    found = {}
    for task in next(iter(schemes.values())):
        right = hits(panel, task, [weights[task] for weights in schemes.values()], spaces, counts)
        for space in spaces:
            shares = 100 * right[space].double().mean(0)
            found |= {(name, space, task): share for name, share in zip(schemes, shares.tolist(), strict=True)}
    return found


def hits(
    panel: Panel,
    task: str,
    schemes: Sequence[Float[Tensor, "n members"]],
    spaces: Sequence[str],
    learned: Sequence[int],
) -> dict[str, Bool[Tensor, "n schemes"]]:
    """By label space, whether each scheme answers each image of a task rightly."""
    candidates = (task,) if tuple(spaces) == ("own",) else panel.order
    members = [number for number, view in enumerate(panel.members) if f"z.{task}" in view]
    views = [panel.members[number] for number in members]
    owner = voting.owners([len(views[0][f"head.{name}"]) for name in candidates])
    place = candidates.index(task)
    heads = [torch.cat([view[f"head.{name}"] for name in candidates]) for view in views]
    within = {space: torch.stack([voting.allowed(owner, place, t, space) for t in learned]) for space in spaces}
    weights = torch.stack(list(schemes), 1)[..., members]
    right: dict[str, list[Tensor]] = {space: [] for space in spaces}
    for rows in torch.arange(len(panel.labels[task])).split(CHUNK):
        each = [evaluate.SCALE * view[f"z.{task}"][rows] @ head.T for view, head in zip(views, heads, strict=True)]
        voted = weights[rows] @ torch.stack(each, 1)
        for space in spaces:
            right[space].append(voting.hits(voted, panel.labels[task][rows], owner, place, within[space]))
    return {space: torch.cat(parts) for space, parts in right.items()}
