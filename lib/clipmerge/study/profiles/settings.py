"""What a profile holds: one frozen dataclass for each section of its YAML file (`profiles` reads them).

Every field is required and every number of an experiment is here, so the YAML files are the whole list of settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Data:
    """Which tasks, and how many images a class of each (None: all)."""

    per_class_train: int | None
    per_class_test: int | None
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Finetune:
    """The recipe of one expert: AdamW, linear warm-up, cosine to zero, label smoothing, random resized crops."""

    steps: int
    batch: int
    lr: float
    lr_by_task: Mapping[str, float] = field(hash=False)
    warmup: int
    label_smoothing: float
    weight_decay: float
    beta1: float
    beta2: float
    scale_min: float  # smallest area of a random crop, as a fraction of the image
    classes: int | None  # that one step tells apart, at most (None: all of the task's)


@dataclass(frozen=True)
class Mtil:
    """ConDU's protocol: order of tasks (empty: as `Data.tasks`), experts per vote, rescaler, models to compare."""

    order: tuple[str, ...]
    k: int
    rescaler: Literal["tensor_mean", "global_l1"]
    widths: tuple[str, ...]


@dataclass(frozen=True)
class Lora:
    """LoRA on the MLP linears: rank, spread of the initial factors A and B, learning rates; the rest as `Finetune`."""

    rank: int
    sd_a: float
    sd_b: float
    lr: float
    lr_by_task: Mapping[str, float] = field(hash=False)


@dataclass(frozen=True)
class FewShot:
    """Few-shot learning: images a class, steps, rates; what is graded after every session, not only the last."""

    shots: int
    steps: int
    lr: float
    lr_by_task: Mapping[str, float] = field(hash=False)
    lora_lr: float
    lora_lr_by_task: Mapping[str, float] = field(hash=False)
    session_seeds: tuple[int, ...]
    session_methods: tuple[str, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Pretrain:
    """The contrastive pretraining that notebook 02 runs."""

    steps: int
    batch: int
    lr: float
    warmup: int
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class Baselines:
    """The methods ConDU is compared with (`baselines.METHODS` or some of them), and the orders it is tried in."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]  # of sequential baselines and MoE-Adapters; RAIL and joint have `Profile.seeds`
    temperature: float  # of distillation: LwF, LwF-VR, iCaRL, ZSCL
    l2: float  # λ of weight consolidation (alone, and in ZSCL)
    wise: float  # share of the new weights (WiSE-FT)
    sentences: int  # of random tokens (LwF-VR)
    memory: int  # exemplars in all (iCaRL)
    reference_images: int  # of the pretraining pool (ZSCL)
    reference_texts: int
    ensemble_every: int  # steps between weights that are averaged (ZSCL)
    rail_width: int  # random features
    rail_ridge: float
    rail_fusion: float  # share of the regression; the rest is zero-shot
    moe_experts: int  # in each block of either tower
    moe_rank: int
    gate_code: int  # width of the autoencoder's code
    gate_steps: int
    gate_quantile: float  # of a task's validation images that its autoencoder must recognise
    random_orders: int
    order_seeds: tuple[int, ...]
    continual_orders: tuple[str, ...]  # orders in which continual fine-tuning is run besides ConDU


    @property
    def options(self):  # TEMPORARY until the profiles are merged
        return {"l2": {"strength": self.l2}, "lwf": {"temperature": self.temperature}, "lwf-vr": {"temperature": self.temperature, "sentences": self.sentences}, "icarl": {"temperature": self.temperature, "memory": self.memory}, "wise-ft": {"share": self.wise}, "zscl": {"temperature": self.temperature, "strength": self.l2, "every": self.ensemble_every, "images": self.reference_images, "texts": self.reference_texts}, "rail": {"width": self.rail_width, "ridge": self.rail_ridge, "fusion": self.rail_fusion}, "moe-adapters": {"experts": self.moe_experts, "rank": self.moe_rank, "code": self.gate_code, "steps": self.gate_steps, "quantile": self.gate_quantile}}


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
class Inference:
    """Rules of inference that are compared: seeds for which every session is answered, temperatures of soft weights."""

    average_seeds: tuple[int, ...]  # Average needs every session; other seeds have the last one only
    taus: tuple[float, ...]


@dataclass(frozen=True)
class Costly:
    """Which models, factors and numbers of tasks of the scaling figures have the first of their seeds alone."""

    models: tuple[str, ...]
    compute: tuple[float, ...]
    task_counts: tuple[int, ...]


@dataclass(frozen=True)
class Temporal:
    """TIME: streams of (dataset, class) pairs, one recipe for every task, replay, evaluation.

    `steps` is the budget of a whole stream, split evenly over its tasks.
    """

    adaptation: tuple[str, ...]  # datasets the stream is made of
    heldout: tuple[str, ...]  # datasets that measure what is left of zero-shot ability
    tasks: int
    steps: int
    batch: int
    lr: float
    warmup: float  # share of a task's steps
    floor: float  # of the learning rate, where the cosine ends
    weight_decay: float
    clip_norm: float
    betas: tuple[float, ...]
    scale_min: float  # as in `Finetune`
    mixture: tuple[float, ...]  # pretraining, update, buffer
    ema_weight: float  # of the newcomer in a fold
    fold_start: Literal["base", "first"]
    subset_adaptation: int  # test images a set that are graded after every task
    subset_heldout: int
    models: tuple[str, ...]  # of the scaling figures, small to large; likewise what follows
    compute: tuple[float, ...]  # factors on the budget
    task_counts: tuple[int, ...]
    scale_seeds: tuple[int, ...]
    one_seed: Costly


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
    model: str
    width_models: tuple[str, ...]
    seeds: tuple[int, ...]
    width_seeds: tuple[int, ...]
    workers: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    autocast: Literal["none", "bf16"]
    data: Data
    finetune: Finetune
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

    @property
    def compute(self):  # TEMPORARY
        from clipmerge.clip.device import Compute

        return Compute(self.device, self.autocast, "auto", self.workers, 1)
