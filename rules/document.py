"""YAML text -> a small tree that knows its places. Adapter to PyYAML: nothing of it goes further.

The tree is built from the event stream, not by PyYAML's composer: the stream is not recursive, so the depth limit is
met before any stack is. Aliases, anchors and tags are refused (no document needs them, and aliases are how a small file
becomes a huge one); scalars stay text.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from rules.model import Place
from rules.problems import PolicyError, Problem, problem

#: A tenant's policy of 5,000 statements is about 600,000 characters.
TEXT_MAX_CHARS = 4_000_000
#: The language itself needs 5.
DEPTH_MAX = 20
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Scalar(NamedTuple):
    """A text. ``plain`` is false if it was quoted or a block. Line and column count from 1, as in all nodes.

    The nodes are tuples, and bare numbers instead of a Place: half a million are made at once.
    """

    text: str
    plain: bool
    line: int
    column: int


class Items(NamedTuple):
    """A list."""

    items: list["Node"]
    line: int
    column: int


class Entries(NamedTuple):
    """A mapping; each key stands once. ``keys`` are in the order of ``table``."""

    table: dict[str, "Node"]
    keys: list[Scalar]
    line: int
    column: int

    @property
    def entries(self) -> tuple[tuple[Scalar, "Node"], ...]:
        """Keys with their values, as they stand in the text."""
        return tuple(zip(self.keys, self.table.values(), strict=True))


Node = Scalar | Items | Entries


class _Open(NamedTuple):
    """A list or a mapping whose end has not been met; ``around`` is what it stands in."""

    around: list[Node]
    line: int
    column: int


def read(text: str, file_name: str) -> tuple[Node, list[Problem]]:
    """The document's tree and the mistakes that leave it readable (duplicate or non-text keys, tags).

    Raises PolicyError: not YAML, empty, too large, too deep, an alias, more than one document.
    """
    top = Place(file_name, 1, 1)
    if len(text) > TEXT_MAX_CHARS:
        raise PolicyError([problem("rules.too-large", top, characters=len(text), limit=TEXT_MAX_CHARS)])
    try:
        text.encode("utf-8")
        loader = _LOADER(text)
        try:
            return _build(loader.get_event, top)
        finally:
            loader.dispose()
    except UnicodeEncodeError:
        raise PolicyError([problem("rules.not-yaml", top, reason="not Unicode text")]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        place = Place(file_name, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        raise PolicyError([problem("rules.not-yaml", place, reason=str(error.reason))]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file_name, mark.line + 1, mark.column + 1) if mark else top
        raise PolicyError([problem("rules.not-yaml", place, reason=str(error.problem or error.context))]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML without libyaml lets chr() complain about "\UFFFFFFFF" by itself.
        raise PolicyError([problem("rules.not-yaml", top, reason=str(error))]) from None


# Any: the events have no common type that knows their attributes.
def _build(next_event: Callable[[], Any], top: Place) -> tuple[Node, list[Problem]]:
    """The tree, event by event: with the scalars first, and no call for one of them, twice as fast as with helpers."""
    scalar_event, sequence_end, mapping_end = yaml.ScalarEvent, yaml.SequenceEndEvent, yaml.MappingEndEvent
    new = tuple.__new__
    problems: list[Problem] = []
    roots: list[Node] = []
    nodes = roots
    open_nodes: list[_Open] = []
    while True:
        event = next_event()
        kind = type(event)
        if kind is scalar_event:
            mark = event.start_mark
            line, column = mark.line + 1, mark.column + 1
            if event.anchor is not None or event.tag is not None:
                _refuse(event, Place(top.file, line, column), problems)
            nodes.append(new(Scalar, (event.value, not event.style, line, column)))
        elif kind is mapping_end:
            done = open_nodes.pop()
            entries = _entries(nodes, done, top.file, problems)
            nodes = done.around
            nodes.append(entries)
        elif kind is sequence_end:
            done = open_nodes.pop()
            nodes, inner = done.around, nodes
            nodes.append(Items(inner, done.line, done.column))
        elif kind in _STARTS:
            mark = event.start_mark
            line, column = mark.line + 1, mark.column + 1
            if event.anchor is not None or event.tag is not None:
                _refuse(event, Place(top.file, line, column), problems)
            if len(open_nodes) >= DEPTH_MAX:
                place = Place(top.file, line, column)
                raise PolicyError([*problems, problem("rules.too-deep", place, limit=DEPTH_MAX)])
            open_nodes.append(_Open(nodes, line, column))
            nodes = []
        elif kind is yaml.StreamEndEvent:
            break
        elif kind is yaml.AliasEvent:
            _refuse(event, Place(top.file, event.start_mark.line + 1, event.start_mark.column + 1), problems)
        elif kind is yaml.DocumentStartEvent and roots:
            mark = event.start_mark
            place = Place(top.file, mark.line + 1, mark.column + 1)
            raise PolicyError([*problems, problem("rules.many-documents", place)])
    if not roots:
        raise PolicyError([problem("rules.empty", top)])
    return roots[0], problems


_STARTS = frozenset({yaml.MappingStartEvent, yaml.SequenceStartEvent})


def _refuse(event: yaml.Event, place: Place, problems: list[Problem]) -> None:
    """Anchors and aliases end the reading, a tag is told."""
    if getattr(event, "anchor", None) is not None:
        raise PolicyError([*problems, problem("rules.alias", place)])
    if (tag := getattr(event, "tag", None)) is not None:
        problems.append(problem("rules.tag", place, tag=str(tag)))


def _entries(nodes: list[Node], done: _Open, file_name: str, problems: list[Problem]) -> Entries:
    keys = [key for key in nodes[::2] if type(key) is Scalar]
    table = dict(zip([key.text for key in keys], nodes[1::2], strict=False))
    if len(table) * 2 == len(nodes):
        return Entries(table, keys, done.line, done.column)
    first: dict[str, Scalar] = {}
    table = {}
    for key, value in zip(nodes[::2], nodes[1::2], strict=True):
        place = Place(file_name, key.line, key.column)
        if type(key) is not Scalar:
            problems.append(problem("rules.key-not-text", place))
        elif key.text in first:
            line = first[key.text].line
            problems.append(problem("rules.duplicate-key", place, name=key.text, first_line=line))
        else:
            first[key.text] = key
            table[key.text] = value
    return Entries(table, list(first.values()), done.line, done.column)
