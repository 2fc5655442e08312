"""The shapes of our files: mappings with known keys, lists, texts, services. Mistakes are collected.

Does not know what the keys mean: tenant_file and platform_file do.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rules.document import Entries, Items, Node, Scalar
from rules.keys import VALIDITY, Keys
from rules.model import Hours, Place, Service, Validity
from rules.names import nearest
from rules.problems import Problem
from rules.services import merged, numeric
from rules.validity import holds, moment, next_change, weekly

#: The form of group, service and statement names: a DNS label.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: The form of a zone's name in the IANA database.
ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,60}")
#: Longest owner or reason, in characters: they are shown on one screen line or two.
TEXT_MAX_CHARS = 500


class Vocabulary:
    """The services that may be named at one place of a file, and what lists of them were found to mean."""

    def __init__(self, known: Mapping[str, tuple[Service, ...]]) -> None:
        self.known = known
        self.lists: dict[str | tuple[str, ...], tuple[Service, ...]] = {}


class Shapes:
    """A file while it is read. ``problems`` is what does not hold so far."""

    def __init__(self, file_name: str) -> None:
        self.file_name = file_name
        self.problems: list[Problem] = []

    def wrong(self, kind: str, node: Node, **params: str | int) -> None:
        self.problems.append(Problem(kind, params, self.file_name, node.line, node.column))

    def place(self, node: Node) -> Place:
        return tuple.__new__(Place, (self.file_name, node.line, node.column))  # one for each statement: half the time

    def mapping(self, node: Node, keys: Keys) -> dict[str, Node] | None:
        """The mapping's values by key; unknown and missing keys are told."""
        if not isinstance(node, Entries):
            self.wrong("rules.expected-mapping", node, keys=", ".join(keys.by_name))
            return None
        table = node.table
        for name in keys.needed:
            if name not in table:
                self.wrong("rules.missing-key", node, name=name)
        if table.keys() <= keys.by_name.keys():
            return table
        known = ", ".join(keys.by_name)
        for key in node.keys:
            if key.text not in keys.by_name:
                self.wrong("rules.unknown-key", key, name=short(key.text), known=known)
        return {name: value for name, value in table.items() if name in keys.by_name}

    def items(self, node: Node) -> Items | None:
        if isinstance(node, Items):
            return node
        self.wrong("rules.expected-list", node)
        return None

    def text(self, node: Node) -> Scalar | None:
        if isinstance(node, Scalar) and node.text and "\x00" not in node.text:
            return node
        self.wrong("rules.expected-text", node)
        return None

    def texts(self, node: Node) -> list[Scalar]:
        """One text, or a list of texts."""
        if isinstance(node, Items):
            if not node.items:
                self.wrong("rules.empty-list", node)
            return [text for item in node.items if (text := self.text(item)) is not None]
        text = self.text(node)
        return [] if text is None else [text]

    def new_names(self, node: Node) -> list[tuple[Scalar, Node]]:
        """A mapping from names that the file defines."""
        if not isinstance(node, Entries):
            self.wrong("rules.expected-names", node)
            return []
        good: list[tuple[Scalar, Node]] = []
        for key, value in node.entries:
            if NAME.fullmatch(key.text):
                good.append((key, value))
            else:
                self.wrong("rules.bad-name", key, name=short(key.text))
        return good

    def service_set(self, node: Node, vocabulary: Vocabulary) -> tuple[Service, ...]:
        """The services of a list of names and numbers, merged. Equal lists are the same object."""
        if type(node) is Scalar and (before := vocabulary.lists.get(node.text)) is not None:
            return before
        mistakes = len(self.problems)
        texts = self.texts(node)
        written = tuple(text.text for text in texts)
        if len(self.problems) == mistakes and (before := vocabulary.lists.get(written)) is not None:
            return before
        found: list[Service] = []
        for text in texts:
            if text.text in vocabulary.known:
                found.extend(vocabulary.known[text.text])
            elif (service := self._number(text, vocabulary.known)) is not None:
                found.append(service)
        services = merged(found)
        if len(self.problems) == mistakes:
            vocabulary.lists[written] = services
            if len(written) == 1:
                vocabulary.lists[written[0]] = services
        return services

    def _number(self, text: Scalar, known: Mapping[str, tuple[Service, ...]]) -> Service | None:
        try:
            service = numeric(text.text)
        except ValueError:
            self.wrong("rules.bad-service-number", text, name=short(text.text))
            return None
        if service is None and (guess := nearest(text.text, known)) is not None:
            self.wrong("rules.unknown-service-similar", text, name=short(text.text), suggestion=guess)
        elif service is None:
            self.wrong("rules.unknown-service", text, name=short(text.text))
        return service

    def validity(self, node: Node) -> Validity | None:
        """When a statement holds; None with a mistake told."""
        keys = self.mapping(node, VALIDITY)
        zone_text = self.text(keys["zone"]) if keys and "zone" in keys else None
        if keys is None or zone_text is None:
            return None
        try:
            if not ZONE.fullmatch(zone_text.text):
                raise ValueError(zone_text.text)
            zone = ZoneInfo(zone_text.text)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self.wrong("rules.unknown-zone", zone_text, name=short(zone_text.text))
            return None
        start = self._moment(keys.get("from"), zone)
        until = self._moment(keys.get("until"), zone)
        hours: list[Hours] = []
        for text in self.texts(keys["weekly"]) if "weekly" in keys else ():
            try:
                hours.extend(weekly(text.text))
            except ValueError:
                self.wrong("rules.bad-hours", text, name=short(text.text))
        found = Validity(zone_text.text, start, until, tuple(sorted(set(hours))))
        if start is not None and until is not None:
            if until <= start:
                self.wrong("rules.until-before-from", keys["until"])
            elif not holds(found, start) and next_change(found, start) is None:
                self.wrong("rules.never-valid", node)
        return found

    def _moment(self, node: Node | None, zone: ZoneInfo) -> datetime | None:
        text = None if node is None else self.text(node)
        if text is None:
            return None
        try:
            return moment(text.text, zone)
        except ValueError:
            self.wrong("rules.bad-moment", text, name=short(text.text))
            return None

    def flag(self, node: Node | None) -> bool:
        if node is None:
            return False
        if isinstance(node, Scalar) and node.plain and node.text in ("true", "false"):
            return node.text == "true"
        self.wrong("rules.expected-true-false", node)
        return False

    def remark(self, node: Node | None) -> str:
        text = None if node is None else self.text(node)
        if text is not None and len(text.text) > TEXT_MAX_CHARS:
            self.wrong("rules.text-too-long", text, limit=TEXT_MAX_CHARS)
        return "" if text is None else text.text


def short(text: str) -> str:
    """A name as shown in a message: junk can be long."""
    return text if len(text) <= 80 else text[:79] + "…"
