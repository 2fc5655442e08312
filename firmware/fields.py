"""Reading a JSON document field by field, keeping all problems. Pure: used by everything here that is parsed.

A field that is wrong yields a harmless stand-in, so that reading goes on; whoever reads asks `finish` before using
anything.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from firmware.errors import DocumentError, ReleaseError

#: A release with a full image of 1 GiB and twenty deltas is some 300 kB.
DOCUMENT_MAX_BYTES = 1 << 20
TEXT_MAX_CHARACTERS = 4000
#: Numbers above this are not the same in every reader of JSON (RFC 8259 section 6).
NUMBER_MAX = (1 << 53) - 1

#: Problems kept of one document: one that is wrong everywhere must not fill a log.
PROBLEMS_MAX = 50

#: A device's or a board's name, as it stands in paths.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z", re.ASCII)
#: It begins with a digit and has no slash: it stands in paths.
VERSION = re.compile(r"[0-9][0-9A-Za-z.-]{0,31}\Z", re.ASCII)
HASH = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z", re.ASCII)

T = TypeVar("T")


class Problems:
    """What was found to be wrong so far."""

    def __init__(self) -> None:
        self.found: list[DocumentError] = []

    def add(self, key: str, place: str, **params: str | int) -> None:
        """Note one; beyond `PROBLEMS_MAX` nothing is kept."""
        if len(self.found) < PROBLEMS_MAX:
            self.found.append(DocumentError(key, place=place[:120], **params))

    def finish(self) -> None:
        """Raises ReleaseError when there are any."""
        if self.found:
            raise ReleaseError(self.found)


class Fields:
    """An object of a document, each of whose fields is asked for once; `end` names those that nobody asked for."""

    def __init__(self, values: Mapping[str, object], place: str, problems: Problems) -> None:
        self._values, self._place, self.problems = dict(values), place, problems

    def text(self, name: str, *, maximum: int = TEXT_MAX_CHARACTERS) -> str:
        """Characters that can be written as UTF-8."""
        value = self._take(name, str, "")
        if len(value) > maximum:
            self.add("firmware.too-long", name, maximum=maximum)
        try:
            value.encode()
        except UnicodeEncodeError:
            self.add("firmware.not-text", name)
            return ""
        return value

    def matching(self, name: str, pattern: re.Pattern[str], key: str) -> str:
        """A text of a certain form; ``key`` says which when it is not."""
        value = self._take(name, str, None)
        if value is not None and not pattern.match(value):
            self.add(key, name)
        return value or ""

    def name(self, name: str) -> str:
        """Small letters, digits and hyphens."""
        return self.matching(name, NAME, "firmware.not-a-name")

    def version(self, name: str) -> str:
        """A version, such as 2026.11.1."""
        return self.matching(name, VERSION, "firmware.not-a-version")

    def hash(self, name: str) -> str:
        """SHA-256 in hexadecimal digits."""
        return self.matching(name, HASH, "firmware.not-a-hash")

    def time(self, name: str) -> str:
        """An instant in UTC to the second, as text."""
        value = self._take(name, str, None)
        if value is not None and not _is_time(value):
            self.add("firmware.not-a-time", name)
        return value or ""

    def number(self, name: str, minimum: int = 0, maximum: int = NUMBER_MAX) -> int:
        """A whole number within bounds."""
        value = self._take(name, int, None)
        if value is None:
            return minimum
        if not minimum <= value <= maximum:
            self.add("firmware.out-of-range", name, minimum=minimum, maximum=maximum)
            return minimum
        return value

    def truth(self, name: str) -> bool:
        """true or false."""
        return self._take(name, bool, False)

    def inner(self, name: str) -> "Fields":
        """An object within."""
        return Fields(self._take(name, dict, {}), self.place_of(name), self.problems)

    def optional(self, name: str, read: Callable[["Fields"], T]) -> T | None:
        """An object within, or null."""
        if name in self._values and self._values[name] is None:
            del self._values[name]
            return None
        inner = self.inner(name)
        return read(inner)

    def each(self, name: str, read: Callable[["Fields"], T], *, maximum: int) -> tuple[T, ...]:
        """A list of objects."""
        items = self._list(name, maximum)
        found = []
        for index, item in enumerate(items):
            place = f"{self.place_of(name)}[{index}]"
            if isinstance(item, dict):
                found.append(read(Fields(item, place, self.problems)))
            else:
                self.problems.add("firmware.wrong-type", place, wanted="object")
        return tuple(found)

    def texts(self, name: str, pattern: re.Pattern[str], key: str, *, maximum: int) -> tuple[str, ...]:
        """A list of texts of a certain form."""
        found = []
        for index, item in enumerate(self._list(name, maximum)):
            if isinstance(item, str) and pattern.match(item):
                found.append(item)
            else:
                self.problems.add(key, f"{self.place_of(name)}[{index}]")
        return tuple(found)

    def add(self, key: str, name: str, **params: str | int) -> None:
        """Note a problem with a field."""
        self.problems.add(key, self.place_of(name), **params)

    def place_of(self, name: str) -> str:
        """The path to a field, such as ``full.chunks``."""
        return f"{self._place}.{name}" if self._place else name

    def end(self) -> None:
        """Name what is left over."""
        for name in sorted(self._values):
            # No part of the name that a person's terminal would obey.
            self.add("firmware.unknown-field", ascii(name)[1:-1])

    def _list(self, name: str, maximum: int) -> list[object]:
        items: list[object] = self._take(name, list, [])
        if len(items) > maximum:
            self.add("firmware.too-many", name, maximum=maximum)
            return []
        return items

    def _take(self, name: str, kind: type[T], instead: T) -> T:
        if name not in self._values:
            self.add("firmware.missing-field", name)
            return instead
        value = self._values.pop(name)
        if type(value) is not kind:  # a bool is an int to isinstance
            self.add("firmware.wrong-type", name, wanted=_WORDS[kind])
            return instead
        return value


_WORDS: Mapping[type, str] = {str: "string", int: "number", bool: "boolean", dict: "object", list: "array"}


def read_object(data: bytes, *, maximum: int = DOCUMENT_MAX_BYTES) -> Fields:
    """The object that a document is. Raises ReleaseError: too large, not JSON, no object, a name twice."""
    problems = Problems()
    if len(data) > maximum:
        problems.add("firmware.too-large", "", maximum=maximum)
        problems.finish()
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except _TwiceError as twice:
        problems.add("firmware.field-twice", str(twice))
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        problems.add("firmware.not-json", "")
    else:
        if isinstance(value, dict):
            return Fields(value, "", problems)
        problems.add("firmware.wrong-type", "", wanted="object")
    raise ReleaseError(problems.found)


def instant(text: str) -> datetime:
    """A time of a document. Raises ValueError, TypeError: it is none."""
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)


def write_object(values: Mapping[str, object]) -> bytes:
    """The one way a document is written: names in order, no spaces, UTF-8."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class _TwiceError(Exception):
    """A name stands twice in one object: readers would differ in which one counts."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _TwiceError(ascii(twice)[1:-1])
    return values


def _refuse(constant: str) -> object:
    raise ValueError(constant)  # NaN, Infinity: no JSON


def _is_time(value: str) -> bool:
    if not _TIME.match(value):
        return False
    try:
        instant(value)
    except ValueError:
        return False
    return True
