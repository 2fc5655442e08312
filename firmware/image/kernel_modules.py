"""Which of the kernel's modules are kept. Pure: the text of modules.dep and a list to a set of paths.

What a module needs is kept with it. A name in the list that this kernel does not have is told: it may be built in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Selection:
    """``paths`` are kept, as modules.dep has them. ``unknown``: entries of the list that matched nothing."""

    paths: frozenset[str]
    unknown: tuple[str, ...]


def dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """modules.dep(5): path of a module -> paths of all that it needs."""
    found = {}
    for line in text.splitlines():
        path, colon, needed = line.partition(":")
        if colon:
            found[path.strip()] = tuple(needed.split())
    return found


def name_of(path: str) -> str:
    """The module's name: hyphens and underscores are one to the kernel."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def select(known: Mapping[str, tuple[str, ...]], wanted: Iterable[str]) -> Selection:
    """``wanted``: names, and directories below ``kernel/`` with a slash at the end."""
    names = {name_of(path): path for path in known}
    kept: set[str] = set()
    unknown = []
    for entry in wanted:
        if entry.endswith("/"):
            matched = [path for path in known if path.startswith(f"kernel/{entry}")]
        else:
            path = names.get(entry.replace("-", "_"))
            matched = [] if path is None else [path]
        if not matched:
            unknown.append(entry)
        for path in matched:
            kept |= {path, *known[path]}
    return Selection(frozenset(kept), tuple(unknown))


def load_order(known: Mapping[str, tuple[str, ...]], wanted: Iterable[str]) -> tuple[str, ...]:
    """Paths in the order in which they go in: what a module needs stands before it."""
    names = {name_of(path): path for path in known}
    ordered: dict[str, None] = {}
    for name in wanted:
        path = names.get(name.replace("-", "_"))
        if path is not None:
            # modules.dep lists what is needed with the nearest first.
            ordered |= dict.fromkeys((*reversed(known[path]), path))
    return tuple(ordered)
