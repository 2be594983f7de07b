"""TIME's strategies (arXiv 2412.06712) as learners of MTIL: what a task starts from, what is deployed after it.

``r_t = w e_t + (1 − w) r_{t−1}``, ``r_0`` the base. With ``ema/ema`` expert e_t starts from r_{t−1}, and r_t answers.
With ``ft/ema`` the experts are the links of `continual-ft`, so nothing is trained. So with ``ft/lines``, where LiNeS
scales every fold layer by layer. But for its weight (0.8) and its first task, sequential WiSE-FT is ``ema/ema``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce

from clipmerge.merge import ema
from clipmerge.merge.registry import Number
from clipmerge.study import experts
from clipmerge.study.cache.step import Step
from clipmerge.study.condu.contract import Session, method
from clipmerge.study.time import steps


@dataclass(frozen=True)
class Options:
    """ema_weight: w, of the newcomer (TIME's code: 0.5)."""

    ema_weight: float = 0.5


@dataclass(frozen=True)
class Layered:
    """ema_weight: as above; alpha, beta: the factor of layer ℓ of L is α + β ℓ / (L − 1) (TIME's code: 0.5, 0.5)."""

    ema_weight: float = 0.5
    alpha: float = 0.5
    beta: float = 0.5


@method("ema/ema", answers="single", chain=True)
def both(session: Session) -> Step:
    """Start from the moving average, deploy the moving average."""
    expert = session.learner.learn(session.task, session.earlier)
    return fold(session, expert, session.options(Options).ema_weight)


@method("ft/ema", answers="single", chain=True)
def trajectory(session: Session) -> Step:
    """Fine-tune on and on, deploy the moving average of where that has been."""
    return fold(session, newest(session), session.options(Options).ema_weight)


@method("ft/lines", answers="single", chain=True)
def layered(session: Session) -> Step:
    """The same, each fold scaled by LiNeS."""
    options = asdict(session.options(Layered))
    weight = options.pop("ema_weight")
    return fold(session, newest(session), weight, {"lines": options})


def newest(session: Session) -> Step:
    """The newest link of the chain of continual fine-tuning."""
    return reduce(lambda start, task: session.learner.learn(task, start), session.order[: session.number], None)


def fold(session: Session, expert: Step, weight: Number, options: Mapping | None = None) -> Step:
    """r_t from e_t and what has been kept in the session before; the first fold begins with the base."""
    blend = {"technique": "average", "weights": ema.pair("average", weight), "options": options or {}, "count": 2}
    inputs = experts.base_inputs(session.model, None) | {"model.000": expert}
    inputs |= {"model.001": session.earlier} if session.earlier else {}
    return Step(steps.merge, session.label("session"), {"model": session.model, "blend": blend}, inputs)
