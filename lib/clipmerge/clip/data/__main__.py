"""`python -m clipmerge.clip.data COMMAND`: the data commands by themselves."""

import sys
from argparse import ArgumentParser

from clipmerge.clip.data import command
from clipmerge.errors import BadInput


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 the system said no, 2 bad input, 130 interrupted."""
    parser = ArgumentParser("clipmerge")
    command.register(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    options = parser.parse_args(["data", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        options.run(options)
    except BadInput as error:
        print(f"clipmerge: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"clipmerge: {error.filename or 'files'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("clipmerge: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
