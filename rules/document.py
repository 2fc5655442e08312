"""YAML text -> a small tree that knows its places. Adapter to PyYAML: nothing of it goes further.

The tree is built from the event stream, not by PyYAML's composer: the stream is not recursive, so the depth limit is
met before any stack is. Aliases, anchors and tags are refused (no document needs them, and aliases are how a small file
becomes a huge one); scalars stay text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import yaml

from rules.model import Place
from rules.problems import PolicyError, Problem, problem

#: A tenant's policy of 5,000 statements is about 600,000 characters.
TEXT_MAX_CHARS = 4_000_000
#: The language itself needs 5.
DEPTH_MAX = 20
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Scalar(NamedTuple):
    """A text. ``plain`` is false if it was quoted or a block. A tuple, like Place: half a million are made at once."""

    text: str
    plain: bool
    place: Place


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple["Node", ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Entries:
    """A mapping; each key stands once."""

    entries: tuple[tuple[Scalar, "Node"], ...]
    place: Place


Node = Scalar | Items | Entries


@dataclass(slots=True)
class _Open:
    """A list or a mapping whose end has not been met."""

    mapping: bool
    place: Place
    nodes: list[Node]


def read(text: str, file_name: str) -> tuple[Node, list[Problem]]:
    """The document's tree and the mistakes that leave it readable (duplicate or non-text keys, tags).

    Raises PolicyError: not YAML, empty, too large, too deep, an alias, more than one document.
    """
    top = Place(file_name, 1, 1)
    if len(text) > TEXT_MAX_CHARS:
        raise PolicyError([problem("rules.too-large", top, characters=len(text), limit=TEXT_MAX_CHARS)])
    try:
        text.encode("utf-8")
        return _build(_events(text), top)
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


def _events(text: str) -> Iterator[yaml.Event]:
    """What yaml.parse does, without asking twice for each event: they are most of the cost of a large policy."""
    loader = _LOADER(text)
    try:
        while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
            yield event
    finally:
        loader.dispose()


def _build(events: Iterator[yaml.Event], top: Place) -> tuple[Node, list[Problem]]:
    open_nodes: list[_Open] = []
    problems: list[Problem] = []
    root: Node | None = None
    for event in events:
        kind = type(event)
        if kind in _SILENT:
            continue
        node: Node
        if kind in _ENDS:
            done = open_nodes.pop()
            node = _entries(done, problems) if done.mapping else Items(tuple(done.nodes), done.place)
        else:
            mark = event.start_mark
            place = Place(top.file, mark.line + 1, mark.column + 1) if mark else top
            if kind is yaml.DocumentStartEvent:
                if root is not None:
                    raise PolicyError([*problems, problem("rules.many-documents", place)])
                continue
            if kind is yaml.AliasEvent or getattr(event, "anchor", None) is not None:
                raise PolicyError([*problems, problem("rules.alias", place)])
            if (tag := getattr(event, "tag", None)) is not None:
                problems.append(problem("rules.tag", place, tag=str(tag)))
            if not isinstance(event, yaml.ScalarEvent):
                if len(open_nodes) >= DEPTH_MAX:
                    raise PolicyError([*problems, problem("rules.too-deep", place, limit=DEPTH_MAX)])
                open_nodes.append(_Open(kind is yaml.MappingStartEvent, place, []))
                continue
            node = Scalar(event.value, not event.style, place)
        if open_nodes:
            open_nodes[-1].nodes.append(node)
        else:
            root = node
    if root is None:
        raise PolicyError([problem("rules.empty", top)])
    return root, problems


_SILENT = frozenset({yaml.StreamStartEvent, yaml.DocumentEndEvent})
_ENDS = frozenset({yaml.MappingEndEvent, yaml.SequenceEndEvent})


def _entries(done: _Open, problems: list[Problem]) -> Entries:
    entries: dict[str, tuple[Scalar, Node]] = {}
    for key, value in zip(done.nodes[::2], done.nodes[1::2], strict=True):
        if not isinstance(key, Scalar):
            problems.append(problem("rules.key-not-text", key.place))
        elif key.text in entries:
            first = entries[key.text][0].place
            problems.append(problem("rules.duplicate-key", key.place, name=key.text, first_line=first.line))
        else:
            entries[key.text] = (key, value)
    return Entries(tuple(entries.values()), done.place)
