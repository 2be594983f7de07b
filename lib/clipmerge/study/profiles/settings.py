"""What a profile holds: one frozen dataclass for each section of its YAML file (`load` reads them).

Every field has to be said and every number of an experiment is here, so the YAML files are the whole list of settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from clipmerge.clip import recipes
from clipmerge.clip.compute import Compute
from clipmerge.errors import expect
from clipmerge.merge.registry import Number
from clipmerge.study.profiles.rules import Inference


@dataclass(frozen=True)
class Data:
    """Which tasks, and how many images a class of each (None: all).

    With `validation`, the seed of a split, test images are never looked at: a fifth of the training images is graded
    instead, and what is left is learned from.
    """

    per_class_train: int | None
    per_class_test: int | None
    validation: int | None
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class TaskRates:
    """Learning rates of single tasks, by the way of tuning, where a task has another than all."""

    finetune: Mapping[str, float] = field(hash=False)
    chain: Mapping[str, float] = field(hash=False)
    lora: Mapping[str, float] = field(hash=False)
    few_shot: Mapping[str, float] = field(hash=False)
    few_shot_lora: Mapping[str, float] = field(hash=False)


@dataclass(frozen=True)
class Chain:
    """What differs from `Profile.finetune` where one model is tuned on and on: it starts from what it has learned."""

    steps: int
    warmup: int
    lr: float


@dataclass(frozen=True)
class Mtil:
    """ConDU's protocol: order of tasks (empty: as `Data.tasks`), experts per vote, rescaler, models to compare."""

    title: str  # of the data, in captions
    examples: tuple[str, ...]  # tasks that notebooks look at closely
    seeds: tuple[int, ...]  # of the headline rows; the rest has `Profile.seeds`
    time_seeds: tuple[int, ...]  # of TIME's strategies as learners, a chain of trainings each
    order: tuple[str, ...]
    k: int
    rescaler: Literal["tensor_mean", "global_l1"]
    bases: tuple[str, ...]


@dataclass(frozen=True)
class Lora:
    """LoRA on the MLP linears: rank, spread of the initial factors A and B, rate; the rest as `Profile.finetune`."""

    rank: int
    sd_a: float
    sd_b: float
    lr: float


@dataclass(frozen=True)
class FewShot:
    """Few-shot learning: images a class, steps, rates; what is graded after every session, not only the last."""

    shots: int
    steps: int
    lr: float
    lora_lr: float
    session_seeds: tuple[int, ...]
    session_methods: tuple[str, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Pretrain:
    """What notebook 02 changes in the shipped weights' recipe (`pretrain.recipe`) to run it shortened."""

    steps: int
    batch: int
    lr: float
    warmup: int


@dataclass(frozen=True)
class Baselines:
    """The methods ConDU is compared with (by the names of `condu.contract`), and the orders it is tried in."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]  # of methods that train a chain of their own; the others have `Profile.seeds`
    options: Mapping[str, Mapping[str, Any]] = field(hash=False)  # by method; its defaults: the literature
    orders: tuple[Literal["I", "II"], ...]  # in which ConDU and continual fine-tuning are graded after every session
    random_orders: int  # in which ConDU alone is graded, at the end
    order_seeds: tuple[int, ...]


@dataclass(frozen=True)
class Inside:
    """Looking inside ConDU: what is ablated (names of `rules.RULES`, techniques), how much is measured and drawn."""

    rules: tuple[str, ...]
    techniques: tuple[str, ...]
    fisher_batches: int  # of `finetune.batch` training images each
    images: int  # test images of a task whose features are compared
    drawn: tuple[str, ...]  # tasks of the t-SNE figure
    drawn_classes: int
    parity: tuple[str, ...]  # tasks whose logits are computed in several ways
    rounds: int  # times the last session is unified again with itself


@dataclass(frozen=True)
class Temporal:
    """TIME: streams of (dataset, class) pairs, one recipe, replay, evaluation. All its tasks share the `budget`."""

    title: str  # of the data, in captions
    adaptation: tuple[str, ...]  # datasets the stream is made of
    heldout: tuple[str, ...]  # datasets that measure what is left of zero-shot ability
    tasks: int
    recipe: recipes.Adapt  # of one of these tasks
    scale_min: float  # as in `recipes.Finetune`
    mixtures: Mapping[str, tuple[float, ...]] = field(hash=False)  # pretraining, update, buffer; the first is usual
    subset_adaptation: int  # test images a set that are graded after every task
    subset_heldout: int
    folds: tuple[str, ...]  # techniques that fold experts of sequential fine-tuning
    trained: tuple[str, ...]  # techniques that also shape the starts of ema/ema: training runs of their own
    models: tuple[str, ...]  # of the scaling figures, small to large; likewise what follows
    compute: tuple[float, ...]  # factors on the budget
    task_counts: tuple[int, ...]
    scale_mixtures: tuple[str, ...]  # names of `mixtures`
    scale_seeds: tuple[int, ...]
    order_seeds: tuple[int, ...]  # of the comparison of streams

    def __post_init__(self) -> None:
        scaled = (set(self.scale_mixtures) <= set(self.mixtures), "names of mixtures")
        expect(self, {"mixtures": (len(self.mixtures) > 0, "at least one"), "scale_mixtures": scaled})

    @property
    def budget(self) -> int:
        """Optimiser steps of a whole stream."""
        return self.tasks * self.recipe.steps

    def named(self, shares: Sequence[Number]) -> str:
        """What the profile calls a mixture; its shares, where it has no name for them."""
        names = [name for name, known in self.mixtures.items() if known == tuple(shares)]
        return names[0] if names else ":".join(f"{share:g}" for share in shares)


@dataclass(frozen=True)
class Many:
    """Many small tasks: which datasets are cut besides `Data.tasks`, how, how long each is tuned, where one grades."""

    model: str
    sets: tuple[str, ...]
    count: int
    smallest: int  # classes of the smallest task (a smaller dataset is one task)
    steps: int
    warmup: int
    batch: int
    chunk: int  # experts tuned by one step of the cache
    marks: tuple[int, ...]  # numbers of tasks after which everything seen is graded
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Triggers:
    """Leaner triggers: shares of the coordinates that keep their bits, numbers of masks that tasks share."""

    keep: tuple[float, ...]
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """What is timed: fine-tuning steps a task, repeats (the median counts), images at once, experts together."""

    steps: int
    repeats: int
    batches: tuple[int, ...]
    k: tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """Everything an experiment depends on, except its seed."""

    name: str
    notebooks: tuple[str, ...]  # how the names begin of those it is for; all, if empty
    model: str
    width_models: tuple[str, ...]
    seeds: tuple[int, ...]
    base_seeds: tuple[int, ...]
    compute: Compute
    data: Data
    finetune: recipes.Finetune
    chain: Chain
    lr_by_task: TaskRates
    mtil: Mtil
    inference: Inference
    baselines: Baselines
    lora: Lora
    few_shot: FewShot
    pretrain: Pretrain | None
    inside: Inside
    temporal: Temporal
    many: Many
    triggers: Triggers
    cost: Cost

    def __post_init__(self) -> None:
        """What types cannot say."""
        tasks = set(self.data.tasks)
        rules = {
            "data.tasks": (len(tasks) == len(self.data.tasks) > 0, "at least one task and each once"),
            "seeds": (len(self.seeds) > 0, "at least one seed"),
            "mtil.order": (sorted(self.mtil.order or tasks) == sorted(tasks), "nothing or a permutation of data.tasks"),
            "mtil.k": (self.mtil.k >= 0, "at least 0"),
        }
        for way, rates in vars(self.lr_by_task).items():
            rules[f"lr_by_task.{way}"] = (tasks.issuperset(rates), "only tasks of data.tasks")
        expect(self, rules)
