"""`clipmerge plan | run | gc`: what a profile's notebooks will take, running them, tidying up; imports late."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from clipmerge.cli.command import Command, say
from clipmerge.errors import BadInput

ENGINES = ("processes", "ray")


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--profile", default="laptop", metavar="NAME", help="a profile's name or YAML file (laptop)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="those that start so (the profile's)")
    parser.add_argument("--seed", type=int, default=0)


def _engine_arguments(parser: ArgumentParser) -> None:
    _arguments(parser)
    parser.add_argument("--engine", choices=ENGINES, help="what runs steps side by side (default: the profile's)")


def _gc_arguments(parser: ArgumentParser) -> None:
    _arguments(parser)
    parser.add_argument("--keep", choices=["graded"], required=True, help="what stays of finished work")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")


def _jobs(options: Namespace) -> Sequence:
    from clipmerge.book import run

    return run.plan(options.profile, options.seed, "", options.only, None)


def _plan(options: Namespace) -> None:
    from clipmerge.book.ahead import forecast

    found = forecast.make(_jobs(options), options.engine or "")
    print("\n".join(found.lines))
    if found.missing:
        raise SystemExit(2)


def _run(options: Namespace) -> None:
    from clipmerge.book import run
    from clipmerge.book.ahead import forecast, planning
    from clipmerge.clip import published
    from clipmerge.study.cache import store

    if options.engine:
        os.environ[store.ENGINE] = options.engine
    found = forecast.make(_jobs(options))
    found.refuse()
    for line in found.lines:
        say(line)
    for spec in found.weights:
        published.fetch(spec)
    _compute(planning.graph(_jobs(options)) if found.weights else found.graph)  # keys hold the digests of weights
    only = ["--only", *options.only] if options.only else []
    code = run.main(["--profile", options.profile, "--seed", str(options.seed), *only])
    if code:
        raise SystemExit(code)


def _compute(graph) -> None:
    """All steps of all notebooks as one graph, so that no core waits; steps that measure wait for their notebook."""
    from clipmerge.study.cache import store

    together = [step for each in graph.asked if each.compute != store.ALONE for step in each.steps]
    try:
        store.build(together, graph.profile.compute)
    except Exception as error:  # whatever a step may raise, on whatever machine
        job = "".join(f" ({note})" for note in getattr(error, "__notes__", ())[:1])
        kind = "" if isinstance(error, BadInput) else f"{type(error).__name__}: "
        raise BadInput(f"{kind}{' '.join(str(error).split())[:500]}{job}") from error


def _gc(options: Namespace) -> None:
    from clipmerge.book.ahead import planning, tidy

    steps = tidy.spare(planning.graph(_jobs(options)))
    size = tidy.freed_mb(steps) / 1000
    if not options.dry_run:
        tidy.remove(steps)
    print(f"{len(steps)} steps, {size:.1f} GB {'would be freed' if options.dry_run else 'freed'}")


COMMANDS = {
    "plan": Command(
        "Say what running notebooks at a profile takes and what is missing; nothing is started.",
        "clipmerge plan --profile paper-condu",
        *(_engine_arguments, _plan),
    ),
    "run": Command(
        "Compute every step of the notebooks at a profile, then run them; what is done already is not done again.",
        "clipmerge run --profile paper-condu --only 11 12 --engine ray",
        *(_engine_arguments, _run),
    ),
    "gc": Command(
        "Remove from the cache the models and features from which everything has been graded.",
        "clipmerge gc --profile paper-condu --keep graded --dry-run",
        *(_gc_arguments, _gc),
    ),
}
