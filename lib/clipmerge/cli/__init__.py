"""The command line: `clipmerge merge | unify | extend | decouple | inspect | convert | evaluate | figure | data |
plan | run | gc`.

Exit codes: 0 done; 2 it could not be done, and why in one sentence; 130 interrupted. Parsers import nothing heavy, so
that `--help` and mistakes are answered at once; a command imports what it needs when it runs.
"""

import signal
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence

from clipmerge.cli import looking, merging, study
from clipmerge.clip.data import command as data
from clipmerge.errors import BadInput

COMMANDS = merging.COMMANDS | looking.COMMANDS | study.COMMANDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill cleans up like Ctrl-C
    try:
        options.run(options)
    except BadInput as error:
        return _fail(2, error)
    except OSError as error:
        return _fail(2, f"{error.filename or 'files'}: {error.strerror or error}")
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
        sub.set_defaults(run=command.run)
    data.register(commands)
    return parser
