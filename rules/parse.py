"""Policy files -> Policy. Reports every mistake at once, each with its place; no text makes it raise anything else.

Does not decide what passes (compile does) and keeps no order between statements: all of them are ``allow``, and what
no statement allows is dropped.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from rules.document import Entries, Items, Node, Scalar, read
from rules.inventory import check_inventory
from rules.model import Inventory, Policy, PolicySource, Service, Statement, StatementId, endpoints
from rules.names import Names, nearest, never_passes, visible
from rules.problems import PolicyError, Problem, problem
from rules.services import BUILT_IN, merged, numeric, shown

#: The form of group, service and statement names: a DNS label.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: Longest owner or reason, in characters: they are shown on one screen line or two.
TEXT_MAX_CHARS = 500

_TOP_KEYS = ("tenant", "groups", "services", "allow")
_STATEMENT_KEYS = ("name", "from", "to", "services", "both", "owner", "reason")
#: Problems that a policy comes to have while it is in force: a site it names was retired, so that a statement has
#: nobody left, or a site, server or built-in service came to be that has the name of one of its groups or services.
_COMES_WITH_TIME = frozenset(
    {
        "rules.unknown-name",
        "rules.unknown-name-similar",
        "rules.same-site",
        "rules.between-servers",
        "rules.mixed-families",
        "rules.name-taken",
        "rules.service-built-in",
    }
)


def parse(sources: Sequence[PolicySource], inventory: Inventory) -> Policy:
    """Read policies that someone wants to put in force.

    Raises PolicyError with every problem of every file and of the inventory.
    """
    read_all = _read_all(sources, inventory)
    problems = check_inventory(inventory) + [found for _, mistakes in read_all for found in mistakes]
    if problems:
        raise PolicyError(problems)
    return _policy(statements for statements, _ in read_all)


def parse_stored(sources: Sequence[PolicySource], inventory: Inventory) -> tuple[Policy, tuple[Problem, ...]]:
    """Read policies that were accepted earlier, against the inventory of now. For the gateway.

    A name that is gone (its site is revoked) is passed over; groups and services mean what they meant. A tenant whose
    file no longer holds for any other reason gets nothing, and other tenants do not suffer for it. The problems are
    what to tell. Raises PolicyError only for an inconsistent inventory.
    """
    if problems := check_inventory(inventory):
        raise PolicyError(problems)
    kept: list[list[Statement]] = []
    told: list[Problem] = []
    for statements, mistakes in _read_all(sources, inventory):
        told.extend(mistakes)
        if all(found.kind in _COMES_WITH_TIME for found in mistakes):
            kept.append(statements)
    return _policy(kept), tuple(told)


def _policy(files: Iterable[list[Statement]]) -> Policy:
    statements = [statement for file in files for statement in file]
    return Policy(tuple(sorted(statements, key=lambda statement: statement.id)))


def _read_all(sources: Sequence[PolicySource], inventory: Inventory) -> list[tuple[list[Statement], list[Problem]]]:
    table = visible(endpoints(inventory).values())
    shared = table.get("", {})
    results: list[tuple[list[Statement], list[Problem]]] = []
    seen: dict[str, str] = {}
    for source in sources:
        reader = _File(source, Names(table.get(source.tenant, {}), shared))
        reader.read(known_tenant=source.tenant in inventory.tenants)
        if (earlier := seen.get(source.tenant)) is not None:
            params = {"tenant": source.tenant, "first": earlier}
            reader.problems.append(Problem("rules.two-files", params, source.file_name, 1, 1))
        seen[source.tenant] = source.file_name
        results.append((reader.statements, reader.problems))
    return results


class _File:
    """One file while it is read: what holds so far, and what does not."""

    def __init__(self, source: PolicySource, names: Names) -> None:
        self._source = source
        self._names = names
        self._services: dict[str, tuple[Service, ...]] = dict(BUILT_IN)
        self._by_id: dict[StatementId, Statement] = {}
        self.statements: list[Statement] = []
        self.problems: list[Problem] = []

    def read(self, *, known_tenant: bool) -> None:
        try:
            root, self.problems = read(self._source.text, self._source.file_name)
        except PolicyError as error:
            self.problems = list(error.problems)
            return
        top = self._mapping(root, _TOP_KEYS, ("tenant",))
        if top is None:
            return
        if "tenant" in top and (written := self._text(top["tenant"])) is not None:
            if written.text != self._source.tenant:
                self._wrong("rules.wrong-tenant", written, written=written.text, tenant=self._source.tenant)
            elif not known_tenant:
                self._wrong("rules.no-such-tenant", written, tenant=written.text)
        if "groups" in top:
            self._read_groups(top["groups"])
        if "services" in top:
            self._read_services(top["services"])
        if "allow" in top and (allow := self._items(top["allow"])) is not None:
            for item in allow.items:
                self._read_statement(item)

    def _wrong(self, kind: str, node: Node, **params: str | int) -> None:
        self.problems.append(problem(kind, node.place, **params))

    # -- shapes -------------------------------------------------------------------------------------------------

    def _mapping(self, node: Node, known: Sequence[str], needed: Sequence[str]) -> dict[str, Node] | None:
        """The mapping's values by key; unknown and missing keys are told."""
        if not isinstance(node, Entries):
            self._wrong("rules.expected-mapping", node, keys=", ".join(known))
            return None
        found: dict[str, Node] = {}
        for key, value in node.entries:
            if key.text in known:
                found[key.text] = value
            else:
                self._wrong("rules.unknown-key", key, name=_short(key.text), known=", ".join(known))
        for key_name in needed:
            if key_name not in found:
                self._wrong("rules.missing-key", node, name=key_name)
        return found

    def _items(self, node: Node) -> Items | None:
        if isinstance(node, Items):
            return node
        self._wrong("rules.expected-list", node)
        return None

    def _text(self, node: Node) -> Scalar | None:
        if isinstance(node, Scalar) and node.text and "\x00" not in node.text:
            return node
        self._wrong("rules.expected-text", node)
        return None

    def _texts(self, node: Node) -> list[Scalar]:
        """One text, or a list of texts."""
        if isinstance(node, Items):
            if not node.items:
                self._wrong("rules.empty-list", node)
            return [text for item in node.items if (text := self._text(item)) is not None]
        text = self._text(node)
        return [] if text is None else [text]

    def _new_names(self, node: Node) -> list[tuple[Scalar, Node]]:
        """A mapping from names that the file defines."""
        if not isinstance(node, Entries):
            self._wrong("rules.expected-names", node)
            return []
        good: list[tuple[Scalar, Node]] = []
        for key, value in node.entries:
            if NAME.fullmatch(key.text):
                good.append((key, value))
            else:
                self._wrong("rules.bad-name", key, name=_short(key.text))
        return good

    # -- definitions --------------------------------------------------------------------------------------------

    def _read_groups(self, node: Node) -> None:
        definitions = self._new_names(node)
        group_names = {key.text for key, _ in definitions}
        for key, value in definitions:
            if self._names.endpoint(key.text) is not None:
                self._wrong("rules.name-taken", key, name=key.text)
            members: list[str] = []
            for member in self._texts(value):
                if member.text in group_names:
                    self._wrong("rules.group-in-group", member, name=member.text)
                elif self._names.endpoint(member.text) is not None:
                    members.append(member.text)
                else:
                    self._unknown(member)
            self._names.add_group(key.text, members)

    def _read_services(self, node: Node) -> None:
        for key, value in self._new_names(node):
            if key.text in BUILT_IN or key.text in ("tcp", "udp", "icmp", "icmpv6"):
                self._wrong("rules.service-built-in", key, name=key.text)
            self._services[key.text] = self._service_set(value, built_in_only=True)

    def _service_set(self, node: Node, *, built_in_only: bool = False) -> tuple[Service, ...]:
        known: Mapping[str, tuple[Service, ...]] = BUILT_IN if built_in_only else self._services
        found: list[Service] = []
        for text in self._texts(node):
            if text.text in known:
                found.extend(known[text.text])
                continue
            try:
                service = numeric(text.text)
            except ValueError:
                self._wrong("rules.bad-service-number", text, name=_short(text.text))
                continue
            if service is not None:
                found.append(service)
            elif (guess := nearest(text.text, known)) is not None:
                self._wrong("rules.unknown-service-similar", text, name=_short(text.text), suggestion=guess)
            else:
                self._wrong("rules.unknown-service", text, name=_short(text.text))
        return merged(found)

    # -- statements ---------------------------------------------------------------------------------------------

    def _read_statement(self, node: Node) -> None:
        before = len(self.problems)
        keys = self._mapping(node, _STATEMENT_KEYS, ("from", "to", "services"))
        if keys is None:
            return
        name = self._statement_name(keys.get("name"))
        written_from, sources = self._members(keys.get("from"))
        written_to, destinations = self._members(keys.get("to"))
        services = self._service_set(keys["services"]) if "services" in keys else ()
        both = self._flag(keys.get("both"))
        owner, reason = self._remark(keys.get("owner")), self._remark(keys.get("reason"))
        if sources and destinations and (why := self._nothing_passes(sources, destinations)) is not None:
            self._wrong(why, node, source=_listed(written_from), destination=_listed(written_to))
        if (
            any(found.kind not in _COMES_WITH_TIME for found in self.problems[before:])
            or not sources
            or not destinations
        ):
            return
        if not name:
            content = repr((sorted(written_from), sorted(written_to), [shown(one) for one in services], both))
            name = "~" + hashlib.sha256(content.encode()).hexdigest()[:12]
        identity = StatementId(f"{self._source.tenant}/{name}")
        if (first := self._by_id.get(identity)) is not None:
            kind = "rules.same-statement" if name.startswith("~") else "rules.same-name"
            self._wrong(kind, node, name=name, first_line=first.place.line)
            return
        statement = Statement(
            identity, self._source.tenant, sources, destinations, services, both, owner, reason, node.place
        )
        self._by_id[identity] = statement
        self.statements.append(statement)

    def _statement_name(self, node: Node | None) -> str:
        text = None if node is None else self._text(node)
        if text is None:
            return ""
        if not NAME.fullmatch(text.text):
            self._wrong("rules.bad-name", text, name=_short(text.text))
        return text.text

    def _members(self, node: Node | None) -> tuple[list[str], frozenset[str]]:
        """The names as written, and the endpoints they stand for."""
        written = [] if node is None else self._texts(node)
        if len(written) == 1 and (group := self._names.group(written[0].text)) is not None:
            return [written[0].text], group  # the very object: statements of one group share it
        found: set[str] = set()
        for text in written:
            if (group := self._names.group(text.text)) is not None:
                found |= group
            elif self._names.endpoint(text.text) is not None:
                found.add(text.text)
            else:
                self._unknown(text)
        return [text.text for text in written], frozenset(found)

    def _flag(self, node: Node | None) -> bool:
        if node is None:
            return False
        if isinstance(node, Scalar) and node.plain and node.text in ("true", "false"):
            return node.text == "true"
        self._wrong("rules.expected-true-false", node)
        return False

    def _remark(self, node: Node | None) -> str:
        text = None if node is None else self._text(node)
        if text is not None and len(text.text) > TEXT_MAX_CHARS:
            self._wrong("rules.text-too-long", text, limit=TEXT_MAX_CHARS)
        return "" if text is None else text.text

    def _nothing_passes(self, sources: frozenset[str], destinations: frozenset[str]) -> str | None:
        """Why not one pair of the statement can pass the gateway; None as soon as one can."""
        first: str | None = None
        for source in sorted(sources):
            for destination in sorted(destinations):
                one, other = self._names.endpoint(source), self._names.endpoint(destination)
                why = never_passes(one, other) if one is not None and other is not None else None
                if why is None:
                    return None
                first = first or why
        return first

    def _unknown(self, text: Scalar) -> None:
        params = {"name": _short(text.text), "tenant": self._source.tenant}
        if (guess := self._names.nearest(text.text)) is not None:
            self._wrong("rules.unknown-name-similar", text, suggestion=guess, **params)
        else:
            self._wrong("rules.unknown-name", text, **params)


def _short(text: str) -> str:
    """A name as shown in a message: junk can be long."""
    return text if len(text) <= 80 else text[:79] + "…"


def _listed(names: list[str]) -> str:
    return ", ".join(_short(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
