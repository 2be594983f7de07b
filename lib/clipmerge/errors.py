"""The one exception readers see: a sentence that names the file, key or parameter at fault."""

from collections.abc import Mapping
from operator import attrgetter


class BadInput(ValueError):
    """Bad input, said in one sentence: what was at fault, what was expected, what was found."""


def expect(record: object, rules: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse a record that breaks a rule: (dotted) field → whether all is well with it, what was expected."""
    for name, (well, expected) in rules.items():
        if not well:
            raise BadInput(f"{name}: expected {expected}, found {attrgetter(name)(record)!r}")
