"""The words of the command line: techniques and their options, known without importing what carries them out.

`--help` and a mistyped option are answered at once that way. A test holds this table and the registry to each other.
"""

RESCALERS = ("tensor_mean", "global_l1", "none")
SHAPES = ("linear", "quadratic", "sqrt")
BACKENDS = ("pread", "mmap")
FLOATS = ("float16", "bfloat16", "float32", "float64")

SCALE = {"scale": "factor s of the update (1)"}
ELECTION = {
    "per": "the vector that is trimmed: model (default), tower or tensor",
    "zero": "sign where the sum is exactly 0: majority (default) or none",
}
TECHNIQUES: dict[str, dict[str, str]] = {
    "average": {},
    "task_arithmetic": SCALE,
    "slerp": {
        "swap": "true: the weights change places",
        "linear_above": "linear above this |cos| (0.9995)",
    },
    "model_stock": {},
    "fisher": {
        "floor": "added to every diagonal (0)",
        "normalise": "true: diagonals count by their directions, not their lengths",
    },
    "random": SCALE,
    "magmax": SCALE | {"equal": "who wins a tie: later (default) or first"},
    "tall_mask": SCALE | {"sharpness": "λ of the masks (0.4)", "consensus": "masks that must agree (2)"},
    "emr": SCALE | {"task": "position of the task to bring back", "rescaler": ", ".join(RESCALERS)},
    "ties": SCALE
    | ELECTION
    | {"keep": "share of largest |τ| that survives (0.2)", "prune": "the share that goes, in place of keep"},
    "dare_ties": SCALE | ELECTION | {"drop": "probability that a value is dropped (0.8)"},
    "breadcrumbs_ties": SCALE
    | ELECTION
    | {
        "prune": "share of smallest that goes (0.8)",
        "top": "share of largest that goes (0.01)",
        "merge": "mean (default) or sum of those that agree",
    },
}
WEIGHTED = ("average", "slerp", "fisher")
DENSE = ("ties", "dare_ties", "breadcrumbs_ties")  # those that know --density, the share of values that survives
FIELD = {"linear": "average"}  # other names of the same thing
ALIASES = {"lambda": "scale", "gamma": "top"}  # mergekit's words for options


def field(technique: str) -> str:
    """Our name of a technique, which may be given by another that is in use."""
    return FIELD.get(technique, technique)


def translated(technique: str, options: dict[str, object]) -> dict[str, object]:
    """Options in the registry's words: `density` as the technique's own, mergekit's `lambda` and `gamma`.

    What a technique does not know is left for the registry to refuse.
    """
    options = {ALIASES.get(name, name): value for name, value in options.items()}
    if "density" not in options or technique not in DENSE:
        return options
    density = options.pop("density")
    if technique == "ties":
        return options | {"keep": density}
    gone = round(1 - density, 12)  # 1 − 0.2 is not 0.8 in binary
    if technique == "dare_ties":
        return options | {"drop": gone}
    return options | {"prune": round(gone - options.get("top", 0.01), 12)}
