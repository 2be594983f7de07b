"""What a method is: what it keeps after each session, and how that answers. One file, one decorator, found by name.

    @method("average", answers="single")
    def average(session: Session) -> Step:
        return Step(sessions.average, session.label("session"), {}, sessions.numbered(session.experts))

A method keeps one step a session. How it answers: ``single``, one model (a delta) answers everything; ``bank``, the
step holds experts for all tasks seen (a unified delta); ``own``, each session's step is the expert of its own task, as
it has seen the test images; or a function that plans the grading step itself, for answers that are none of these.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles
from clipmerge.study.cache.step import Step
from clipmerge.study.profiles import Profile

Learn = Callable[[str, Step | None], Step]  # task, where to start (None: the base) → the step that leaves its delta


@dataclass(frozen=True)
class Learner:
    """How one task is learned: a name for paths, and what the steps that grade must know of it besides.

    `way` is how methods that train by themselves are to take a task (a field of `profiles.TaskRates`); those look at
    `config` too, which then says how many images they may use (``shots``).
    """

    name: str
    learn: Learn
    config: Mapping[str, object]
    way: str = "finetune"


@dataclass(frozen=True)
class Session:
    """The moment at which task number `number` (from 1) of an order arrives, as a method meets it."""

    profile: Profile
    method: str
    model: str
    seed: int
    order: tuple[str, ...]
    number: int
    learner: Learner
    kept: tuple[Step | None, ...]  # by the method, in the sessions before

    @property
    def task(self) -> str:
        """The newcomer."""
        return self.order[self.number - 1]

    @property
    def earlier(self) -> Step | None:
        """What the method has kept in the session before."""
        return self.kept[-1] if self.kept else None

    @cached_property
    def experts(self) -> list[Step]:
        """The experts of all tasks so far, each tuned from the base."""
        return [self.learner.learn(task, None) for task in self.order[: self.number]]

    def label(self, kind: str) -> str:
        """A step's name in this session."""
        return f"{kind}/{self.name}/{self.number:02d}"

    @property
    def name(self) -> str:
        """Method, model and learner as a part of paths."""
        return f"{self.method}/{experts.label(self.model)}{self.learner.name}"

    def options(self, kind: type) -> object:
        """The method's options: defaults of the dataclass `kind`, overridden by the profile."""
        every, where = self.profile.baselines.options, ("baselines", "options", self.method)
        for name in every:
            if name not in METHODS:
                known = ", ".join(METHODS)
                raise BadInput(f"{self.profile.name}: baselines.options: expected one of {known}; found {name!r}")
        given = every.get(self.method, {})
        return profiles.read(kind, {**asdict(kind()), **given}, self.profile.name, where)


Keep = Callable[[Session], Step | None]
Grade = Callable[[Session, Sequence[Step]], Step]


@dataclass(frozen=True)
class Method:
    """A registered method.

    sessions: ``each``, or ``last`` for one that sees all tasks at once; chain: needs a training for every task and
    seed that no other method shares, so it has the profile's few seeds (``baselines.seeds``).
    """

    name: str
    keep: Keep
    answers: str | Grade
    sessions: str
    chain: bool


METHODS: dict[str, Method] = {}


def method(
    name: str, answers: str | Grade, sessions: str = "each", chain: bool = False
) -> Callable[[Keep], Keep]:
    """Enter the decorated function, what a method keeps after a session, under `name`."""

    def enter(keep: Keep) -> Keep:
        METHODS[name] = Method(name, keep, answers, sessions, chain)
        return keep

    return enter


def find(name: str) -> Method:
    """The method of that name."""
    if name not in METHODS:
        raise BadInput(f"method: expected one of {', '.join(METHODS)}; found {name!r}")
    return METHODS[name]
