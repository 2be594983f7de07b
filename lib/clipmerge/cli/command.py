"""What a command is, and what several of them share: how models are named, progress, resources."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from clipmerge.cli.words import BACKENDS

MODEL = "a safetensors file, a folder, hf:owner/name@revision, or open_clip:ViT-B-32-quickgelu/openai"


@dataclass(frozen=True)
class Command:
    """One subcommand: what it says of itself, its arguments, what it does."""

    help: str
    example: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, to be called with (done, total) elements; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit="param", unit_scale=True, leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


def say(line: str) -> None:
    """A line to whoever watches, apart from results."""
    print(f"clipmerge: {line}", file=sys.stderr)


def resources(parser: ArgumentParser) -> None:
    """Arguments of every command that reads whole models."""
    group = parser.add_argument_group("resources")
    group.add_argument("--memory-budget-mb", type=float, default=1024, metavar="MB", help="refuse to need more (1024)")
    group.add_argument("--threads", type=int, metavar="N", help="default: OMP_NUM_THREADS, or one a core")
    group.add_argument("--backend", choices=BACKENDS, default="pread", help="how files are read (pread)")


def how(options: Namespace) -> dict[str, object]:
    """Those arguments, for `streaming`."""
    return {name: getattr(options, name) for name in ("memory_budget_mb", "threads", "backend")}
