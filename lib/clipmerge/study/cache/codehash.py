"""The code behind a result: digests of every function, class and constant of clipmerge that it can reach.

Modules are parsed, never imported. A name is followed to its definition, through imports and front pages, and from the
names in that definition on. Docstrings, comments and layout do not count, nor does whatever stands beside a definition
in its file: editing a table recomputes no step. Two users share this: the keys of steps, and the stamps of notebooks.

Reaching too much costs a computation, reaching too little a wrong result. So a module used as a value counts whole, and
statements that run on import count wherever their module is met. A definition entered into a registry by its decorator
counts once somebody reads that registry.
"""

import ast
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache

from clipmerge.errors import BadInput
from clipmerge.files import digest
from clipmerge.study.cache.syntax import Chain, Definition, Module, module, references

# These move results about but do not make them: editing them must not cost an hour of training.
PLUMBING = tuple(f"clipmerge.{room}" for room in ("errors", "files", "paths", "study.cache", "study.profiles"))
Place = tuple[str, str]  # module, name in it
_reached: dict[Place, "_Reach"] = {}


def digests(fn: Callable) -> dict[str, str]:
    """Digest by module name, over what a step function reaches in clipmerge and in its own package."""
    return _of(fn).digests()


def reached(fn: Callable) -> frozenset[Place]:
    """Module and name of every definition that a step function reaches."""
    return frozenset(_of(fn).met)


def _of(fn: Callable) -> "_Reach":
    home = getattr(fn, "__module__", None)
    name = getattr(fn, "__qualname__", repr(fn))
    if home in (None, "__main__") or "<" in name:
        raise BadInput(f"step function: expected one defined at the top level of a module, found {name} of {home}")
    place = (home, name.partition(".")[0])
    if place not in _reached or not _reached[place].current():
        _reached[place] = _Reach({"clipmerge", home.partition(".")[0]}, PLUMBING)
        _reached[place].add(place)
    return _reached[place]


def library(sources: Iterable[str]) -> dict[str, str]:
    """Digest by module name, over what these texts of code (the cells of a notebook) reach in clipmerge."""
    return _of_texts(sources).digests()


def met(sources: Iterable[str]) -> frozenset[Place]:
    """Module and name of every definition of clipmerge that these texts of code reach."""
    return frozenset(_of_texts(sources).met)


def _of_texts(sources: Iterable[str]) -> "_Reach":
    reach = _Reach({"clipmerge"}, ())
    reach.text(ast.parse("\n".join(sources)))
    return reach


class _Reach:
    """The definitions met so far, and what is still to be followed."""

    def __init__(self, rooms: Collection[str], skipped: tuple[str, ...]) -> None:
        self.met: set[Place] = set()
        self._rooms = rooms
        self._skipped = skipped
        self._touched: dict[str, Module] = {}
        self._entries: dict[Place, list[Place]] = {}  # registry → definitions that wait for somebody to read it

    def digests(self) -> dict[str, str]:
        """One digest a module, of its definitions that were met."""
        names: dict[str, list[str]] = {}
        for home, name in sorted(self.met):
            names.setdefault(home, []).append(name)
        return {home: digest([self._touched[home].definitions[n].digest for n in names[home]])[:16] for home in names}

    def current(self) -> bool:
        """Whether no module met has been loaded again since."""
        return all(module(name) is known for name, known in self._touched.items())

    def text(self, tree: ast.Module) -> None:
        """Follow everything that a piece of code without a home of its own mentions."""
        mentioned, bound = references(tree, "")
        for chain in mentioned:
            head, *rest = chain
            if head in bound:
                for place in self._along((*bound[head], *rest)):
                    self.add(place)

    def add(self, place: Place) -> None:
        """Follow a definition and all it mentions, without recursion: chains are long."""
        waiting = [place]
        while waiting:
            home, name = waiting.pop()
            if (home, name) in self.met or self._stays_out(home):
                continue
            known = self._touch(home)
            if known is None or name not in known.definitions:
                continue
            self.met.add((home, name))
            waiting += self._entries.pop((home, name), [])
            definition = known.definitions[name]
            for chain in definition.mentions:
                waiting += self._resolve(known, chain, definition)
            for chain in definition.decorators:
                waiting += [d for d in self._resolve(known, chain, definition) if not _stores(d)]

    def _stays_out(self, home: str) -> bool:
        return home.partition(".")[0] not in self._rooms or any(
            home == each or home.startswith(f"{each}.") for each in self._skipped
        )

    def _touch(self, home: str) -> Module | None:
        """Meet a module: what runs when it is imported, and what its decorators enter into registries."""
        if home in self._touched or self._stays_out(home):
            return self._touched.get(home)
        known = module(home)
        if known is None:
            return None
        self._touched[home] = known
        for above in _parents(home):
            self._touch(above)
        for target in known.imported:
            for part in (target, *_parents(target)):
                self._touch(part)
        for name, definition in known.definitions.items():
            if definition.runs:
                self.add((home, name))
            for registry in self._registries(known, definition):
                if registry in self.met:
                    self.add((home, name))
                else:
                    self._entries.setdefault(registry, []).append((home, name))
        return known

    def _registries(self, known: Module, definition: Definition) -> Iterator[Place]:
        """The constants into which the decorators of a definition enter it."""
        for chain in definition.decorators:
            for decorator in self._resolve(known, chain, definition):
                yield from ((decorator[0], constant) for constant in _stores(decorator))

    def _resolve(self, known: Module, chain: Chain, definition: Definition) -> list[Place]:
        """Where a name in a definition leads, if it leads anywhere in the rooms."""
        head, *rest = chain
        if head in definition.imports:
            return self._along((*definition.imports[head], *rest))
        if head in known.definitions:
            return [(known.name, head)]
        if head in known.imports:
            return self._along((*known.imports[head], *rest))
        return []

    def _along(self, chain: Chain) -> list[Place]:
        """The definition at the end of an absolute path; all of a module that is named but not asked for anything."""
        if chain[0] not in self._rooms:
            return []
        home, rest = _module_of(chain)
        if not home or self._stays_out(home):
            return []
        known = self._touch(home)
        if known is None:
            return []
        if not rest:
            return [(home, name) for name in known.definitions]
        if rest[0] in known.definitions:
            return [(home, rest[0])]
        return self._along((*known.imports[rest[0]], *rest[1:])) if rest[0] in known.imports else []


def _stores(place: Place) -> list[str]:
    """The constants of its own module that a definition fills: what a decorator's registry is."""
    home, name = place
    known = module(home).definitions
    return [constant for constant in known[name].stores if constant in known]


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


@cache
def _module_of(chain: Chain) -> tuple[str, Chain]:
    """The longest beginning of a path that is a module, and the rest."""
    for end in range(len(chain), 0, -1):
        if module(".".join(chain[:end])) is not None:
            return ".".join(chain[:end]), chain[end:]
    return "", chain
