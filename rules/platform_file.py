"""The platform's file: what stands above all tenants' policies."""

from collections.abc import Collection, Mapping
from dataclasses import fields

from rules.document import Entries, Node, Scalar, read
from rules.model import Limits, Platform, PlatformSource, Restriction, Service
from rules.problems import PolicyError
from rules.services import BUILT_IN, merged
from rules.shapes import Shapes, short

_KEYS = ("services", "forbidden", "servers", "limits", "tenants")
_SERVER_KEYS = ("offers", "opens")
_LIMIT_KEYS = tuple(one.name for one in fields(Limits))
#: A limit beyond this is a typing mistake.
LIMIT_MAX = 1_000_000


class PlatformFile(Shapes):
    """The file while it is read."""

    def __init__(self, servers: Collection[str], tenants: Collection[str]) -> None:
        super().__init__()
        self._servers = servers
        self._tenants = tenants
        self._known: dict[str, tuple[Service, ...]] = dict(BUILT_IN)

    def read(self, source: PlatformSource) -> Platform:
        """What of the file holds; ``problems`` says what does not."""
        try:
            root, self.problems = read(source.text, source.file_name)
        except PolicyError as error:
            self.problems = list(error.problems)
            return Platform()
        top = self.mapping(root, _KEYS, ())
        if top is None:
            return Platform()
        own = self._services(top["services"]) if "services" in top else {}
        forbidden = self.service_set(top["forbidden"], self._known) if "forbidden" in top else ()
        servers = self._restrictions(top["servers"]) if "servers" in top else {}
        limits = self._limits(top["limits"]) if "limits" in top else Limits()
        tenants: dict[str, Limits] = {}
        for key, value in self._entries(top.get("tenants")):
            if key.text not in self._tenants:
                self.wrong("rules.no-such-tenant", key, tenant=short(key.text))
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
            if key.text in BUILT_IN or key.text in ("tcp", "udp", "icmp", "icmpv6"):
                self.wrong("rules.service-built-in", key, name=key.text)
            own[key.text] = self.service_set(value, BUILT_IN)
        self._known |= own
        return own

    def _restrictions(self, node: Node) -> Mapping[str, Restriction]:
        found: dict[str, Restriction] = {}
        for key, value in self._entries(node):
            if key.text not in self._servers:
                self.wrong("rules.no-shared-server", key, name=short(key.text))
            sides = self.mapping(value, _SERVER_KEYS, ()) or {}
            given = {side: self._side(sides[side]) for side in sides}
            found[key.text] = Restriction(**given)
        return found

    def _side(self, node: Node) -> tuple[Service, ...]:
        """Services, or the word none."""
        if isinstance(node, Scalar) and node.text == "none":
            return ()
        return merged(self.service_set(node, self._known))

    def _limits(self, node: Node) -> Limits:
        found: dict[str, int] = {}
        for key, value in (self.mapping(node, _LIMIT_KEYS, ()) or {}).items():
            text = self.text(value)
            digits = "" if text is None else text.text
            if digits.isascii() and digits.isdigit() and len(digits) < 8 and int(digits) <= LIMIT_MAX:
                found[key] = int(digits)
            elif text is not None:
                self.wrong("rules.bad-limit", text, name=short(text.text), limit=LIMIT_MAX)
        return Limits(**found)
