"""`clipmerge data list | get | place | check | import-fomo`: what the command line says and does; imports late."""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

EXAMPLE = """examples:
  clipmerge data list
  clipmerge data get mtil
  clipmerge data place sun397 ~/datasets
  clipmerge data import-fomo ~/fomo_in_flux"""


def register(commands) -> None:
    """Add ``data`` and its own commands to the subparsers `commands`; the chosen function is ``options.run``."""
    said = {"help": "Fetch, place and check real data sets.", "epilog": EXAMPLE}
    parser = commands.add_parser("data", **said, formatter_class=RawDescriptionHelpFormatter)
    inner = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    _add(inner, "list", show, "Say which sets there are, where they come from, and which are packed.")
    got = _add(inner, "get", get, "Download sets and pack them; what is packed stays as it is.")
    got.add_argument("names", nargs="+", metavar="NAME", help="sets of `clipmerge data list`, or mtil for all of them")
    placed = _add(inner, "place", place, "Pack a set from files that you have.")
    placed.add_argument("name", metavar="NAME")
    placed.add_argument("folder", type=Path, metavar="FOLDER", help="holds the files as the source lays them out")
    checked = _add(inner, "check", check, "Read packs from end to end and compare them with their locks.")
    checked.add_argument("names", nargs="*", metavar="NAME", help="default: every set that is packed")
    fomo = _add(inner, "import-fomo", import_fomo, "Pack FoMo-in-Flux from a clone whose data folder is extracted.")
    fomo.add_argument("folder", type=Path, metavar="PATH")


def _add(commands, name: str, run: Callable[[Namespace], None], said: str) -> ArgumentParser:
    parser = commands.add_parser(name, help=said, description=said)
    parser.set_defaults(run=run)
    return parser


def show(options: Namespace) -> None:
    """Print a table of MTIL's sets and one line on FoMo-in-Flux."""
    from tabulate import tabulate

    from clipmerge.clip.data import external, fomo, locks

    rows = []
    for name in external.names():
        one = external.load(name)
        state = "packed" if locks.ready(name) else "by hand" if not any(s.download for s in one.sources) else "to get"
        numbers = (len(one.classes), one.counts["train"], one.counts["test"], one.mb)
        rows.append((name, *numbers, one.split.rule, state, one.licence, str(one.sources[0])))
    header = ("set", "classes", "train", "test", "MB", "split", "state", "licence", "source")
    print(tabulate(rows, headers=header, tablefmt="simple", intfmt=","))
    done = sum(locks.ready(f"fomo/{name}") for name in fomo.sets())
    print(f"FoMo-in-Flux: {done} of {len(fomo.sets())} sets packed (`clipmerge data import-fomo PATH`)")


def get(options: Namespace) -> None:
    """Fetch and pack the named sets, one after another."""
    from clipmerge.clip.data import external, prepare

    every = [external.names() if name == "mtil" else (external.load(name).name,) for name in options.names]
    for name in dict.fromkeys(chain(*every)):
        _said(name, prepare.get(name))


def place(options: Namespace) -> None:
    """Pack one set from a folder."""
    from clipmerge.clip.data import external, prepare

    name = external.load(options.name).name
    _said(name, prepare.place(name, options.folder.expanduser()))


def check(options: Namespace) -> None:
    """Verify the named packs, or all there are."""
    from clipmerge.clip.data import external, locks
    from clipmerge.errors import BadInput

    chosen = [name if "/" in name else external.load(name).name for name in options.names] or list(_packed())
    if not chosen:
        raise BadInput("data check: expected at least one packed set, found none; see `clipmerge data list`")
    for name in chosen:
        _said(name, locks.check(name))


def _packed() -> Iterator[str]:
    from clipmerge.clip.data import external, fomo, locks

    for name in (*external.names(), *(f"fomo/{one}" for one in fomo.sets())):
        if locks.ready(name):
            yield name


def import_fomo(options: Namespace) -> None:
    """Pack what a clone of fomo_in_flux holds."""
    from clipmerge.clip.data import fomo

    packed, missing = fomo.bring_in(options.folder.expanduser())
    print(f"{len(packed)} sets packed, {len(missing)} without images{': ' + ', '.join(missing) if missing else ''}")


def _said(name: str, lock: dict) -> None:
    commit = f" at {lock['revision'][:12]}" if lock["revision"] else ""
    print(f"{name}: {lock['source']}{commit}, digest {lock['digest'][:12]}")
