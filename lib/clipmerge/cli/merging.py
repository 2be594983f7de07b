"""Commands that write models: merge, unify, extend, decouple. Models are read through `clip.hub`."""

from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from clipmerge.cli import recipe, words
from clipmerge.cli.command import MODEL, Command, how, progress, resources, say
from clipmerge.errors import BadInput


def _out(parser: ArgumentParser, what: str, required: bool = True) -> None:
    parser.add_argument("--out", required=required, type=Path, metavar="PATH", help=what)
    parser.add_argument("--force", action="store_true", help="replace what is there already, once the new one is whole")


def _value(text: str) -> object:
    """A technique's option as typed: true, false, an integer, a number, or a word."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _listing() -> str:
    """Techniques, each with its options, for `--help`."""
    lines = ["techniques and their options:"]
    for name, options in words.TECHNIQUES.items():
        own = {"weights W …": "relative, one per expert"} if name in words.WEIGHTED else {}
        own |= {"density": "share of values that survives"} if name in words.DENSE else {}
        lines += [f"  {name}", *(f"    --{_flag(option):16} {said}" for option, said in (own | options).items())]
    return "\n".join([*lines, "  (linear is average, --lambda is --scale, --gamma is --top)"])


def _flag(option: str) -> str:
    return option.replace("_", "-")


def _merge_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("experts", nargs="+", metavar="MODEL", help=f"{MODEL}; or one recipe.yaml in mergekit's keys")
    parser.add_argument("--technique", choices=[*words.TECHNIQUES, *words.FIELD], metavar="NAME", help="see below")
    parser.add_argument("--base", metavar="MODEL", help="the model they were tuned from")
    _out(parser, "file to write", required=False)
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="relative, one per expert; ends with --")
    parser.add_argument("--ema", type=float, metavar="W", help="fold over the experts, oldest first, newest weighted W")
    parser.add_argument("--fishers", nargs="+", metavar="MODEL", help="diagonals for fisher; ends with --")
    parser.add_argument("--lines", choices=words.SHAPES, help="LiNeS: scale the update by depth, in this shape")
    parser.add_argument("--seed", type=int, help="of dare_ties and random (0)")
    parser.add_argument("--dtype", choices=words.FLOATS, help="of the result (default: the base's)")
    resources(parser)
    known = {option for options in words.TECHNIQUES.values() for option in options}
    for name in sorted(known | {"density"} | words.ALIASES.keys()):
        parser.add_argument(f"--{_flag(name)}", dest=f"option_{name}", type=_value, default=SUPPRESS, help=SUPPRESS)
    parser.epilog = f"{_listing()}\n\n{parser.epilog}"


def _merge(options: Namespace) -> None:
    _settled(options)
    from clipmerge.clip import hub
    from clipmerge.merge import streaming
    from clipmerge.merge.lines import Lines

    chosen = words.translated(options.technique, options.chosen)
    if options.lines:
        chosen["lines"] = Lines(shape=options.lines)
    base, experts = hub.opened(options.base, options.experts, say)
    files = (options.technique, base, experts, options.out)
    with progress(options.technique) as seen:
        common = {"seed": options.seed or 0, "progress": seen, "dtype": options.dtype, "force": options.force}
        common |= how(options) | chosen
        if options.ema is not None:
            given = [name for name in ("weights", "fishers") if getattr(options, name)]
            if given:
                raise BadInput(f"--ema: goes without --{given[0]}, each step has its own")
            weight = options.ema if options.technique in words.WEIGHTED or options.ema != 0.5 else None
            streaming.fold(*files, weight, **common)
        else:
            fishers = hub.opened(base, options.fishers or [], say)[1]
            streaming.merge(*files, weights=options.weights, fishers=fishers, **common)


def _settled(options: Namespace) -> None:
    """Fill in what a recipe says, and see that nothing needed is missing."""
    options.chosen = {k.removeprefix("option_"): v for k, v in vars(options).items() if k.startswith("option_")}
    if options.experts[0].endswith((".yaml", ".yml")):
        path, *more = options.experts
        twice = [
            name for name in ("technique", "base", "weights", "dtype", "seed") if getattr(options, name) is not None
        ]
        if more or twice or options.chosen:
            given = (more or [f"--{name}" for name in [*twice, *options.chosen]])[0]
            raise BadInput(f"{path}: expected a recipe alone with --out, --force and resources, found {given} too")
        found = recipe.read(Path(path))
        options.chosen = found.pop("options")
        for name, value in found.items():
            if name != "out" or options.out is None:
                setattr(options, name, value)
        if options.technique not in words.TECHNIQUES:
            known = ", ".join(words.TECHNIQUES)
            raise BadInput(f"{path}: merge_method should be one of {known}, found {options.technique!r}")
    for name in ("technique", "base", "out"):
        if getattr(options, name) is None:
            raise BadInput(f"merge: expected --{name} (or a recipe.yaml that says it), found none")
    options.technique = words.field(options.technique)


def _unify_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("experts", nargs="+", metavar="MODEL", help=MODEL)
    parser.add_argument("--base", required=True, metavar="MODEL", help="the model they were tuned from")
    _out(parser, "folder to make")
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="of the tasks (default: of the models); ends with --"
    )
    parser.add_argument("--rescaler", choices=words.RESCALERS, default="tensor_mean")
    resources(parser)


def _unify(options: Namespace) -> None:
    from clipmerge.clip import hub
    from clipmerge.merge import streaming

    base, experts = hub.opened(options.base, options.experts, say)
    with progress("unify") as seen:
        common = {"notes": _notes(options.base, options.experts), "force": options.force, "progress": seen}
        streaming.unify(base, experts, options.out, options.rescaler, options.names, **common, **how(options))


def _notes(base: str, experts: Sequence[str]) -> dict[str, object]:
    def kept(model: str) -> str:
        return model if ":" in model else str(Path(model).absolute())

    return {"base": kept(base), "experts": [kept(expert) for expert in experts]}


def _extend_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("unified", type=Path, metavar="DIR", help="the unified model of the sessions so far")
    parser.add_argument("expert", metavar="MODEL", help=f"the new session's expert: {MODEL}")
    parser.add_argument("--base", required=True, metavar="MODEL")
    _out(parser, "folder to make")
    parser.add_argument("--task", metavar="NAME", help="name of the new task (default: the model's)")
    resources(parser)


def _extend(options: Namespace) -> None:
    from clipmerge import files
    from clipmerge.clip import hub
    from clipmerge.merge import folder, streaming

    base, (expert,) = hub.opened(options.base, [options.expert], say)
    earlier = options.unified / folder.NOTES
    seen_before = files.read_json(earlier)["experts"] if earlier.exists() else []
    with progress("extend") as seen:
        common = {"notes": _notes(options.base, [*seen_before, options.expert]), "force": options.force}
        places = (options.unified, expert, base, options.out)
        streaming.extend(*places, options.task, progress=seen, **common, **how(options))


def _decouple_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("unified", type=Path, metavar="DIR")
    parser.add_argument("--task", required=True, metavar="NAME", help="name of a task, or its position from 0")
    _out(parser, "the task's delta, or its model")
    parser.add_argument("--base", metavar="MODEL", help="add the delta to this model")
    parser.add_argument("--dtype", choices=words.FLOATS, help="of the result (default: the base's)")


def _decouple(options: Namespace) -> None:
    from clipmerge.clip import hub
    from clipmerge.merge import folder, streaming

    names = [task.name for task in folder.stored(options.unified).tasks]
    task = int(options.task) if options.task.isdigit() and options.task not in names else options.task
    base = hub.opened(options.base, [], say)[0] if options.base else None
    with progress("decouple") as seen:
        common = {"dtype": options.dtype, "force": options.force, "progress": seen}
        streaming.decouple(options.unified, task, options.out, base, **common)


COMMANDS = {
    "merge": Command(
        "Merge experts into one model by any technique.",
        "clipmerge merge --technique ties --density 0.2 --base base.safetensors --out merged.safetensors a.safetensors "
        "b.safetensors",
        *(_merge_arguments, _merge),
    ),
    "unify": Command(
        "Unify experts into one delta with a trigger for each (ConDU; of all at once: EMR-Merging).",
        "clipmerge unify --base base.safetensors --out unified digits.safetensors flags.safetensors",
        *(_unify_arguments, _unify),
    ),
    "extend": Command(
        "One more session of ConDU: decouple the earlier tasks, unify them with a new expert.",
        "clipmerge extend unified food.safetensors --base base.safetensors --out unified-3",
        *(_extend_arguments, _extend),
    ),
    "decouple": Command(
        "Bring one task's delta, or with --base its model, back out of a unified model.",
        "clipmerge decouple unified --task digits --base base.safetensors --out digits-again.safetensors",
        *(_decouple_arguments, _decouple),
    ),
}
