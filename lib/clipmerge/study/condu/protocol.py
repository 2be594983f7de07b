"""ConDU's protocol, multi-domain task-incremental learning (paper §5): one accuracy matrix A[t, i] per method and seed.

A[t, i] is the accuracy on task i after session t, in per cent, on its own labels. Which methods there are, and how each
answers, is `contract`'s business; `grading` asks them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from clipmerge.study import baselines, experts, profiles, results  # noqa: F401  (importing enters the baselines)
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step
from clipmerge.study.condu import contract, features, grading, sessions, voting
from clipmerge.study.condu.contract import Learner, Session
from clipmerge.study.condu.methods import METHODS
from clipmerge.study.profiles import Profile

Plans = Mapping[tuple[str, int], Sequence[Step]]  # method, seed → the steps that grade it, session after session


def plan(
    profile: Profile,
    method: str,
    seed: int,
    order: Sequence[str] | None = None,
    model: str = "",
    learner: Learner | None = None,
) -> list[Step]:
    """The steps that grade `method` after each session; what they build on is reached through their inputs."""
    answers = contract.find(method).answers
    walked = walk(profile, method, seed, order, model, learner)
    return [grade(session, answers, (*session.kept, step)) for session, step in walked]


def kept(profile: Profile, method: str, seed: int, order: Sequence[str] | None = None) -> list[Step]:
    """What `method` keeps after each session."""
    return [step for _, step in walk(profile, method, seed, order)]


def walk(
    profile: Profile,
    method: str,
    seed: int,
    order: Sequence[str] | None = None,
    model: str = "",
    learner: Learner | None = None,
) -> Iterator[tuple[Session, Step | None]]:
    """The sessions of a method one after the other, each with what it keeps."""
    order = tuple(order or profiles.order(profile))
    chosen = contract.find(method)
    learner = learner or full(profile, seed, model)
    learner = replace(learner, learn=cache(learner.learn))  # every session asks for all experts so far
    kept: tuple[Step | None, ...] = ()
    for number in range(1 if chosen.sessions == "each" else len(order), len(order) + 1):
        session = Session(profile, method, model or profile.model, seed, order, number, learner, kept)
        kept += (chosen.keep(session),)
        yield session, kept[-1]


def full(profile: Profile, seed: int, model: str = "") -> Learner:
    """Fine-tuning of all weights on all images of a task."""
    return Learner("", lambda task, start: experts.step(profile, task, seed, model, start), {})


def grade(session: Session, answers: str | contract.Grade, kept: Sequence[Step | None]) -> Step:
    """The step that grades what a method has `kept` up to and with this session."""
    if callable(answers):
        return answers(session, kept)
    config = experts.config(session.profile, session.order, session.model)
    inputs = experts.base_inputs(session.model)
    if answers == "single":
        model = {"model": kept[-1]} if kept[-1] else {}
        if model:  # other label spaces are free: a single model shows its heads of all tasks anyway
            config |= {"spaces": voting.SPACES, "learned": session.number}
        label = session.label("grade") if model else f"grade/{session.name}"  # zero-shot: all sessions are one step
        return Step(grading.grade, label, config, inputs | model)
    config |= {"k": session.profile.mtil.k, "seen": session.number, **session.learner.config}
    inputs |= {"features": features.of_base(session.profile, session.order, session.model)}
    inputs |= {"session": kept[-1]} if answers == "bank" else sessions.numbered(kept, "seen")
    seed = session.seed if session.learner.config else 0  # what a learner owns may hang on it
    return Step(grading.grade, session.label("grade"), config, inputs, seed)


def run(
    profile: Profile,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] | None = None,
    order: Sequence[str] | None = None,
    model: str = "",
) -> pd.DataFrame:
    """Tidy rows of methods × seeds: the accuracy of every session, and transfer, average and last.

    Seeds are by default ``mtil.seeds``, and ``baselines.seeds`` for methods that train a chain of their own.
    """
    plans = {}
    for method in methods:
        usual = profile.baselines.seeds if contract.find(method).chain else profile.mtil.seeds
        plans |= {(method, seed): plan(profile, method, seed, order, model) for seed in seeds or usual}
    return rows(profile, plans, order, model)


def last(
    profile: Profile,
    methods: Sequence[str],
    model: str,
    seeds: Sequence[int] | None = None,
    order: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Tidy rows of the last session alone (metric ``last``, per task and mean): a tenth of the work of `run`."""
    seeds = profile.base_seeds if seeds is None else seeds
    plans = {(method, seed): plan(profile, method, seed, order, model)[-1:] for method in methods for seed in seeds}
    return rows(profile, plans, order, model)


def rows(profile: Profile, plans: Plans, order: Sequence[str] | None = None, model: str = "") -> pd.DataFrame:
    """Compute what is planned by method and seed; tidy rows, of the last session alone where no other is planned."""
    order = tuple(order or profiles.order(profile))
    store.build([step for steps in plans.values() for step in steps], profile.compute)
    frames = [of_plan(key, steps, order, model or profile.model) for key, steps in plans.items()]
    return pd.concat(frames, ignore_index=True)


def of_plan(
    key: tuple[str, int], steps: Sequence[Step], order: Sequence[str], model: str, scheme: str = grading.FULL
) -> pd.DataFrame:
    """Tidy rows of one method and seed whose grading steps have been computed."""
    a = matrix(steps, order, scheme)
    sizes = grading.read(steps[-1].folder, scheme)[1]
    fixed = {"method": key[0], "seed": key[1], "n": sizes, "model": model}
    if len(a) == len(order):
        return pd.concat([results.matrix_rows(a, order, **fixed), results.mtil_rows(a, order, **fixed)])
    values = dict(zip(order, a[-1].tolist(), strict=True))
    return results.rows(results.with_mean(values), metric="last", **fixed)


def matrix(steps: Sequence[Step], order: Sequence[str], scheme: str = grading.FULL) -> np.ndarray:
    """The accuracy matrix [sessions, tasks] that computed grading steps have left, in per cent."""
    graded = [grading.read(store.get(step), scheme)[0] for step in steps]
    return np.array([[row[task] for task in order] for row in graded])
