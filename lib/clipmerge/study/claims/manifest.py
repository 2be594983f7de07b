"""The claims as ``data_manifests/claims.yaml`` lists them, read strictly.

An entry names an artefact, the rows of its csv, and what is compared: ``first`` alone or against ``second``. ``rows``
selects for both sides; a selector is a value, a list of values, or ``{not: …}`` of either. ``each`` turns an entry into
several claims: every ``{name}`` in its strings is replaced by each of the values.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from clipmerge import paths
from clipmerge.clip.data import yamls
from clipmerge.errors import BadInput

SIDES = ("first", "second")


@dataclass(frozen=True)
class Side:
    """Rows of one artefact's csv; `members` names the column that tells the members of a family apart (kind wider)."""

    artefact: str
    where: Mapping[str, object]
    members: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim: whose, in our words and from where; what is compared, and how large a difference it speaks of.

    `kind` says where the mean lies: ``greater`` than `margin`, ``less`` than it, ``equal`` to 0 within it, or that the
    first family is ``wider`` than the second. `compare` is ``difference`` or ``ratio`` of the two sides. `take` says in
    which order columns are reduced: ``{"mean": ("task",)}``. `once`: counted or measured one time, so that it decides
    alone. `decides` is ``laptop`` (whatever profile is run) or ``overnight``. `headline`: the README names it.
    """

    id: str
    part: str
    paper: str
    claim: str
    source: str
    first: Side
    second: Side | None
    kind: str
    margin: float = 0.0
    unit: str = "points"
    compare: str = "difference"
    once: bool = False
    headline: bool = False
    decides: str = "laptop"
    take: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How a message names it."""
        return f"claim {self.id!r}" + (f" ({self.part})" if self.part else "")

    @property
    def sides(self) -> tuple[Side, ...]:
        """One or two."""
        return (self.first,) if self.second is None else (self.first, self.second)


def load(path: Path | None = None) -> tuple[Claim, ...]:
    """All claims of a file, by default the project's; what is wrong with it is one sentence."""
    path = path or paths.manifests() / "claims.yaml"
    entries = yamls.read(path, "claims.schema.json")["claims"]
    found = [claim for entry in entries for claim in _expanded(path, entry)]
    ids = [(claim.id, claim.part) for claim in found]
    for id, part in ids:
        if ids.count((id, part)) > 1:
            raise BadInput(f"{path}: expected an id of its own for every claim, found {id!r} twice")
    return tuple(found)


def _expanded(path: Path, entry: Mapping) -> Iterator[Claim]:
    """The claims of one entry, one for each combination of the values in ``each``."""
    names = entry.get("each", {})
    for values in product(*names.values()):
        given = dict(zip(names, values, strict=True))
        try:
            filled = _fill({key: value for key, value in entry.items() if key != "each"}, given)
        except KeyError as error:
            known = ", ".join(names) or "none"
            raise BadInput(f"{path}: {entry['id']}: expected placeholders of each ({known}), found {error}") from None
        yield _claim(filled, ", ".join(map(str, values)))


def _claim(entry: dict, part: str) -> Claim:
    shared = entry.pop("rows", {})
    artefact = entry.pop("artefact")
    sides = {}
    for name in SIDES:
        own = entry.pop(name, {} if name == "first" else None)
        if own is None:
            sides[name] = None
            continue
        where = {key: value for key, value in {**shared, **own}.items() if key not in ("artefact", "members")}
        sides[name] = Side(own.get("artefact", artefact), where, own.get("members", ""))
    take = {how: (of,) if isinstance(of, str) else tuple(of) for how, of in entry.pop("take", {}).items()}
    return Claim(part=part, take=take, **sides, **entry)


def _fill(value: object, given: Mapping[str, object]) -> object:
    """`value` with every placeholder replaced, in whatever it holds."""
    if isinstance(value, str):
        return value.format_map(given)
    if isinstance(value, list):
        return [_fill(one, given) for one in value]
    if isinstance(value, dict):
        return {key: _fill(one, given) for key, one in value.items()}
    return value
