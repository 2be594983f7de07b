"""ConDU (paper, Algorithm 1), its upper and lower marks, and the merges it is compared with."""

from clipmerge.study.cache.step import Step
from clipmerge.study.condu import features, sessions
from clipmerge.study.condu.contract import Session, method

METHODS = ("zero-shot", "continual-ft", "experts", "average", "emr", "condu-ft")


@method("zero-shot", answers="single")
def zero_shot(session: Session) -> None:
    """Nothing is learned: the base answers."""
    return None


@method("continual-ft", answers="single")
def continual(session: Session) -> Step:
    """Fine-tune on and on."""
    return session.learner.learn(session.task, session.earlier)


@method("experts", answers="own")
def apart(session: Session) -> Step:
    """Keep every expert: what merging would like to be. They never change, so each looks at all images once."""
    return features.of_model(session.profile, session.experts[-1], session.order, session.model)


@method("average", answers="single")
def average(session: Session) -> Step:
    """The mean of all experts so far."""
    return Step(sessions.average, session.label("session"), {}, sessions.numbered(session.experts))


@method("emr", answers="bank")
def emr(session: Session) -> Step:
    """EMR-Merging: all experts so far, unified at once."""
    config = {"rescaler": session.profile.mtil.rescaler}
    return Step(sessions.one_shot, session.label("session"), config, sessions.numbered(session.experts))


@method("condu-ft", answers="bank")
def condu(session: Session) -> Step:
    """ConDU: what session t−1 has left, decoupled, and the newcomer, unified."""
    inputs = {"newcomer": session.experts[-1]} | ({"earlier": session.earlier} if session.earlier else {})
    return Step(sessions.extend, session.label("session"), {"rescaler": session.profile.mtil.rescaler}, inputs)
