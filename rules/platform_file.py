"""The platform's file: what stands above all tenants' policies."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rules.document import Entries, Node, Scalar, read
from rules.keys import LIMITS, PLATFORM_FILE, SERVER
from rules.model import Limits, Platform, PlatformSource, Restriction, Service
from rules.problems import PolicyError, Problem
from rules.services import BUILT_IN, PROTOCOLS, merged
from rules.shapes import Shapes, Vocabulary, short

#: A limit beyond this is a typing mistake.
LIMIT_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class PlatformDraft:
    """What the text says by itself. ``servers`` and ``tenants`` are where it names them."""

    source: PlatformSource
    platform: Platform
    problems: tuple[Problem, ...]
    servers: tuple[Scalar, ...]
    tenants: tuple[Scalar, ...]

    def against(self, servers: Collection[str], tenants: Collection[str]) -> list[Problem]:
        """Every mistake, given the names of the shared servers and the tenants there are."""
        file_name = self.source.file_name
        return [
            *self.problems,
            *(
                Problem("rules.no-shared-server", {"name": short(one.text)}, file_name, one.line, one.column)
                for one in self.servers
                if one.text not in servers
            ),
            *(
                Problem("rules.no-such-tenant", {"tenant": short(one.text)}, file_name, one.line, one.column)
                for one in self.tenants
                if one.text not in tenants
            ),
        ]


def draft_platform(source: PlatformSource) -> PlatformDraft:
    """Read the file."""
    return _PlatformFile(source).read()


class _PlatformFile(Shapes):
    """The file while it is read."""

    def __init__(self, source: PlatformSource) -> None:
        super().__init__(source.file_name)
        self._source = source
        self._servers: list[Scalar] = []
        self._tenants: list[Scalar] = []
        self._vocabulary = Vocabulary(BUILT_IN)

    def read(self) -> PlatformDraft:
        """The draft; it holds what could be read."""
        platform = self._platform()
        problems = tuple(self.problems)
        return PlatformDraft(self._source, platform, problems, tuple(self._servers), tuple(self._tenants))

    def _platform(self) -> Platform:
        try:
            root, self.problems = read(self._source.text, self.file_name)
        except PolicyError as error:
            self.problems = list(error.problems)
            return Platform()
        top = self.mapping(root, PLATFORM_FILE)
        if top is None:
            return Platform()
        own = self._services(top["services"]) if "services" in top else {}
        forbidden = self.service_set(top["forbidden"], self._vocabulary) if "forbidden" in top else ()
        servers = self._restrictions(top["servers"]) if "servers" in top else {}
        limits = self._limits(top["limits"]) if "limits" in top else Limits()
        tenants: dict[str, Limits] = {}
        for key, value in self._entries(top.get("tenants")):
            self._tenants.append(key)
            tenants[key.text] = self._limits(value)
        return Platform(own, forbidden, servers, limits, tenants)

    def _entries(self, node: Node | None) -> list[tuple[Scalar, Node]]:
        if isinstance(node, Entries):
            return list(node.entries)
        if node is not None:
            self.wrong("rules.expected-names", node)
        return []

    def _services(self, node: Node) -> Mapping[str, tuple[Service, ...]]:
        own: dict[str, tuple[Service, ...]] = {}
        for key, value in self.new_names(node):
            if key.text in BUILT_IN or key.text in PROTOCOLS:
                self.wrong("rules.service-built-in", key, name=key.text)
            own[key.text] = self.service_set(value, self._vocabulary)
        self._vocabulary = Vocabulary({**BUILT_IN, **own})
        return own

    def _restrictions(self, node: Node) -> Mapping[str, Restriction]:
        found: dict[str, Restriction] = {}
        for key, value in self._entries(node):
            self._servers.append(key)
            sides = self.mapping(value, SERVER) or {}
            given = {side: self._side(sides[side]) for side in sides}
            found[key.text] = Restriction(**given)
        return found

    def _side(self, node: Node) -> tuple[Service, ...]:
        """Services, or the word none."""
        if isinstance(node, Scalar) and node.text == "none":
            return ()
        return merged(self.service_set(node, self._vocabulary))

    def _limits(self, node: Node) -> Limits:
        found: dict[str, int] = {}
        for key, value in (self.mapping(node, LIMITS) or {}).items():
            text = self.text(value)
            digits = "" if text is None else text.text
            if digits.isascii() and digits.isdigit() and len(digits) < 8 and int(digits) <= LIMIT_MAX:
                found[key] = int(digits)
            elif text is not None:
                self.wrong("rules.bad-limit", text, name=short(text.text), limit=LIMIT_MAX)
        return Limits(**found)
