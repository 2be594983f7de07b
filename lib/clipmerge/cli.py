"""The command line: `clipmerge merge | unify | extend | decouple | inspect | convert`.

Exit codes: 0 done, 1 the system said no (disk, permissions), 2 bad input, 130 interrupted; errors are one sentence.
"""

import signal
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

from tqdm import tqdm

from clipmerge.errors import BadInput
from clipmerge.merge import streaming, techniques
from clipmerge.merge.condu import RESCALERS
from clipmerge.merge.convert import convert
from clipmerge.merge.folder import TRIGGERS, stored
from clipmerge.merge.lines import SHAPES, Lines
from clipmerge.merge.safefile import BACKENDS, CODES, header


@dataclass(frozen=True)
class Command:
    """One subcommand: what it says of itself, its arguments, what it does."""

    help: str
    example: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up like Ctrl-C
    try:
        COMMANDS[options.command].run(options)
    except BadInput as error:
        return _fail(2, error)
    except OSError as error:
        return _fail(1, f"{error.filename or 'files'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return _fail(130, "interrupted; nothing half-written is left")
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _fail(code: int, reason: object) -> int:
    print(f"clipmerge: {reason}", file=sys.stderr)
    return code


def _parser() -> ArgumentParser:
    parser = ArgumentParser("clipmerge", description="Merge fine-tuned CLIPs in weight space, file to file.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        said = {"help": command.help, "description": command.help, "epilog": f"example:\n  {command.example}"}
        sub = commands.add_parser(name, **said, formatter_class=RawDescriptionHelpFormatter)
        command.arguments(sub)
    return parser


@contextmanager
def _progress(what: str):
    with tqdm(desc=what, unit="param", unit_scale=True, disable=not sys.stderr.isatty(), leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


def _resources(parser: ArgumentParser) -> None:
    parser.add_argument("--memory-budget-mb", type=float, default=1024, metavar="MB", help="refuse to need more (1024)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: torch's number")
    parser.add_argument("--backend", choices=BACKENDS, default="pread", help="how files are read (pread)")


def _how(options: Namespace) -> dict:
    return {name: getattr(options, name) for name in ("memory_budget_mb", "threads", "backend")}


def _base_out_experts(parser: ArgumentParser, out: str) -> None:
    parser.add_argument("--base", required=True, type=Path, metavar="FILE", help="the model they were tuned from")
    parser.add_argument("--out", required=True, type=Path, metavar="PATH", help=out)
    parser.add_argument("experts", nargs="+", type=Path, metavar="EXPERT", help="safetensors files")


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


def _merge_arguments(parser: ArgumentParser) -> None:
    _base_out_experts(parser, "file to write")
    names = techniques.names()
    parser.add_argument("--technique", required=True, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="relative, one per expert; ends with --")
    parser.add_argument("--ema", type=float, metavar="W", help="fold over the experts, oldest first, newest weighted W")
    parser.add_argument("--fishers", nargs="+", type=Path, metavar="FILE", help="diagonals for fisher; ends with --")
    parser.add_argument("--lines", choices=tuple(SHAPES), help="LiNeS: scale the update by depth, in this shape")
    parser.add_argument("--seed", type=int, default=0)
    _resources(parser)
    options = parser.add_argument_group("options of the techniques")
    for name in sorted({option for t in names for option in techniques.find(t).options}):
        owners = ", ".join(t for t in names if name in techniques.find(t).options)
        flag = f"--{name.replace('_', '-')}"
        options.add_argument(flag, dest=f"option_{name}", type=_value, default=SUPPRESS, metavar="VALUE", help=owners)


def _merge(options: Namespace) -> None:
    chosen = {k.removeprefix("option_"): v for k, v in vars(options).items() if k.startswith("option_")}
    if options.lines:
        chosen["lines"] = Lines(shape=options.lines)
    with _progress(options.technique) as progress:
        common = {"seed": options.seed, "progress": progress, **_how(options), **chosen}
        files = (options.technique, options.base, options.experts, options.out)
        if options.ema is not None:
            given = [name for name in ("weights", "fishers") if getattr(options, name)]
            if given:
                raise BadInput(f"--ema: goes without --{given[0]}, each step has its own")
            weight = options.ema if techniques.find(options.technique).weighted or options.ema != 0.5 else None
            streaming.fold(*files, weight, **common)
        else:
            streaming.merge(*files, weights=options.weights, fishers=options.fishers, **common)


def _unify_arguments(parser: ArgumentParser) -> None:
    _base_out_experts(parser, "folder to make")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the tasks (default: file names); ends with --")
    parser.add_argument("--rescaler", choices=RESCALERS, default="tensor_mean")
    _resources(parser)


def _unify(options: Namespace) -> None:
    with _progress("unify") as progress:
        files = (options.base, options.experts, options.out)
        streaming.unify(*files, options.rescaler, options.names, progress=progress, **_how(options))


def _extend_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("unified", type=Path, metavar="DIR", help="the unified model of the sessions so far")
    parser.add_argument("expert", type=Path, metavar="EXPERT", help="the new session's expert, tuned from the base")
    parser.add_argument("--base", required=True, type=Path, metavar="FILE")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--task", metavar="NAME", help="name of the new task (default: the file's)")
    _resources(parser)


def _extend(options: Namespace) -> None:
    with _progress("extend") as progress:
        files = (options.unified, options.expert, options.base, options.out)
        streaming.extend(*files, options.task, progress=progress, **_how(options))


def _decouple_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("unified", type=Path, metavar="DIR")
    parser.add_argument("--task", required=True, metavar="NAME", help="name of a task, or its position from 0")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the task's delta, or its model")
    parser.add_argument("--base", type=Path, metavar="FILE", help="add the delta to this model")


def _decouple(options: Namespace) -> None:
    names = [task.name for task in stored(options.unified).tasks]
    task = int(options.task) if options.task.isdigit() and options.task not in names else options.task
    with _progress("decouple") as progress:
        streaming.decouple(options.unified, task, options.out, options.base, progress=progress)


def _inspect_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a safetensors file, or the folder of a unified model")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")


def _inspect(options: Namespace) -> None:
    unified = stored(options.file) if (options.file / TRIGGERS).exists() else None
    found = unified.delta if unified else header(options.file)
    sizes = Counter()
    for shape, dtype in found.layout.values():
        sizes[CODES[dtype]] += prod(shape)
    parts = ", ".join(f"{count:,} {code}" for code, count in sorted(sizes.items()))
    print(f"{options.file}: {len(found.layout)} tensors, {parts}")
    for key, value in sorted(found.meta.items()):
        print(f"  {key}: {value}")
    for task in unified.tasks if unified else ():
        print(f"  task {task.name}: rescaler {task.rescaler:.4f}")
    for name, (shape, dtype) in sorted(found.layout.items()) if options.tensors else ():
        print(f"  {name} {CODES[dtype]} {list(shape)}")


def _convert_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="FILE.pt")
    parser.add_argument("out", type=Path, metavar="FILE.safetensors")


def _convert(options: Namespace) -> None:
    convert(options.source, options.out)


COMMANDS = {
    "merge": Command(
        "Merge experts into one model by any technique.",
        "clipmerge merge --technique ties --keep 0.2 --base base.safetensors --out merged.safetensors a.safetensors "
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
    "inspect": Command(
        "Say what is in a file or in a unified model.",
        "clipmerge inspect unified",
        *(_inspect_arguments, _inspect),
    ),
    "convert": Command(
        "Turn a .pt state dict into safetensors, loading weights only.",
        "clipmerge convert open_clip.pt open_clip.safetensors",
        *(_convert_arguments, _convert),
    ),
}


if __name__ == "__main__":
    sys.exit(main())
