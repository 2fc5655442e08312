"""One tenant's file: its text -> statements, with every mistake told at its place.

Does not decide what passes (compile does) and keeps no order between statements: it has no meaning.
"""

import hashlib
from collections.abc import Mapping

from rules.document import Entries, Items, Node, Scalar, read
from rules.groups import check_dual_membership, nested_groups, read_groups
from rules.model import Action, Nested, Platform, PolicySource, Service, Statement, StatementId, TenantPolicy
from rules.names import Names, never_passes
from rules.problems import PolicyError
from rules.services import BUILT_IN, shown, subtracted
from rules.shapes import NAME, Shapes, short

_TOP_KEYS = ("tenant", "groups", "forbid-dual-membership", "services", "allow", "deny")
_STATEMENT_KEYS = ("name", "from", "to", "services", "both", "valid", "owner", "reason")
#: Problems that a policy comes to have while it is in force: a site it names was retired, so that a statement has
#: nobody left, or a site, server or built-in service came to be that has the name of one of its groups or services; or
#: the platform's file changed above it.
COMES_WITH_TIME = frozenset(
    {
        "rules.unknown-name",
        "rules.unknown-name-similar",
        "rules.same-site",
        "rules.between-servers",
        "rules.mixed-families",
        "rules.name-taken",
        "rules.service-built-in",
        "rules.service-forbidden",
        "rules.no-shared-server",
        "rules.limit-groups",
        "rules.limit-members",
        "rules.limit-services",
        "rules.limit-statements",
    }
)


class TenantFile(Shapes):
    """One file while it is read: what holds so far, and what does not."""

    def __init__(self, source: PolicySource, names: Names, platform: Platform) -> None:
        super().__init__()
        self._source = source
        self._names = names
        self._platform = platform
        self._given = {**BUILT_IN, **platform.services}
        self._services: dict[str, tuple[Service, ...]] = dict(self._given)
        self._by_id: dict[StatementId, Statement] = {}
        self.statements: list[Statement] = []
        self.nested: list[Nested] = []

    def read(self, *, known_tenant: bool) -> None:
        try:
            root, self.problems = read(self._source.text, self._source.file_name)
        except PolicyError as error:
            self.problems = list(error.problems)
            return
        top = self.mapping(root, _TOP_KEYS, ("tenant",))
        if top is None:
            return
        if "tenant" in top and (written := self.text(top["tenant"])) is not None:
            if written.text != self._source.tenant:
                self.wrong("rules.wrong-tenant", written, written=written.text, tenant=self._source.tenant)
            elif not known_tenant:
                self.wrong("rules.no-such-tenant", written, tenant=written.text)
        if "groups" in top:
            read_groups(self, top["groups"], self._names, self._unknown)
            self.nested = nested_groups(self._source.tenant, self._names)
        if "forbid-dual-membership" in top:
            check_dual_membership(self, top["forbid-dual-membership"], self._names)
        if "services" in top:
            self._read_services(top["services"])
        self._check_limits(top)
        for action in Action:
            if action.value in top and (listed := self.items(top[action.value])) is not None:
                for item in listed.items:
                    self._read_statement(item, action)

    @property
    def tenant(self) -> str:
        """Whose file it is."""
        return self._source.tenant

    def policy(self) -> TenantPolicy:
        """What the file says."""
        statements = sorted(self.statements, key=lambda statement: statement.id)
        return TenantPolicy(self.tenant, tuple(statements), tuple(sorted(self.nested, key=lambda one: one.group)))

    # -- definitions --------------------------------------------------------------------------------------------

    def _read_services(self, node: Node) -> None:
        for key, value in self.new_names(node):
            if key.text in self._given or key.text in ("tcp", "udp", "icmp", "icmpv6"):
                self.wrong("rules.service-built-in", key, name=key.text)
            self._services[key.text] = self.service_set(value, self._given)

    def _check_limits(self, top: Mapping[str, Node]) -> None:
        """Tell what there is more of than the platform grants this tenant."""
        limits = self._platform.tenants.get(self._source.tenant, self._platform.limits)

        def check(kind: str, node: Node | None, found: int, limit: int | None) -> None:
            if node is not None and limit is not None and found > limit:
                self.wrong(kind, node, found=found, limit=limit)

        groups, services = top.get("groups"), top.get("services")
        check("rules.limit-groups", groups, _length(groups), limits.groups)
        check("rules.limit-services", services, _length(services), limits.services)
        for key, _ in groups.entries if isinstance(groups, Entries) else ():
            check("rules.limit-members", key, len(self._names.group(key.text) or ()), limits.members)
        listed = [top[action.value] for action in Action if action.value in top]
        if listed:
            check("rules.limit-statements", listed[0], sum(map(_length, listed)), limits.statements)

    # -- statements ---------------------------------------------------------------------------------------------

    def _read_statement(self, node: Node, action: Action) -> None:
        before = len(self.problems)
        keys = self.mapping(node, _STATEMENT_KEYS, ("from", "to", "services"))
        if keys is None:
            return
        name = self._statement_name(keys.get("name"))
        written_from, sources = self._members(keys.get("from"))
        written_to, destinations = self._members(keys.get("to"))
        services = self.service_set(keys["services"], self._services) if "services" in keys else ()
        both = self.flag(keys.get("both"))
        validity = self.validity(keys["valid"]) if "valid" in keys else None
        owner, reason = self.remark(keys.get("owner")), self.remark(keys.get("reason"))
        if sources and destinations and (why := self._nothing_passes(sources, destinations)) is not None:
            self.wrong(why, node, source=_listed(written_from), destination=_listed(written_to))
        if action is Action.ALLOW and services and not subtracted(services, self._platform.forbidden):
            self.wrong("rules.service-forbidden", keys["services"], services=", ".join(map(shown, services)))
        if (
            any(found.kind not in COMES_WITH_TIME for found in self.problems[before:])
            or not sources
            or not destinations
        ):
            return
        if not name:
            content = repr((sorted(written_from), sorted(written_to), [shown(one) for one in services], both))
            content += "" if action is Action.ALLOW else action.value
            content += "" if validity is None else repr(validity)
            name = "~" + hashlib.sha256(content.encode()).hexdigest()[:12]
        identity = StatementId(f"{self._source.tenant}/{name}")
        if (first := self._by_id.get(identity)) is not None:
            kind = "rules.same-statement" if name.startswith("~") else "rules.same-name"
            self.wrong(kind, node, name=name, first_line=first.place.line)
            return
        statement = Statement(
            identity,
            self._source.tenant,
            sources,
            destinations,
            services,
            both,
            owner,
            reason,
            node.place,
            action,
            validity,
        )
        self._by_id[identity] = statement
        self.statements.append(statement)

    def _statement_name(self, node: Node | None) -> str:
        text = None if node is None else self.text(node)
        if text is None:
            return ""
        if not NAME.fullmatch(text.text):
            self.wrong("rules.bad-name", text, name=short(text.text))
        return text.text

    def _members(self, node: Node | None) -> tuple[list[str], frozenset[str]]:
        """The names as written, and the endpoints they stand for."""
        written = [] if node is None else self.texts(node)
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
        params = {"name": short(text.text), "tenant": self._source.tenant}
        if (guess := self._names.nearest(text.text)) is not None:
            self.wrong("rules.unknown-name-similar", text, suggestion=guess, **params)
        else:
            self.wrong("rules.unknown-name", text, **params)


def _listed(names: list[str]) -> str:
    return ", ".join(short(name) for name in names[:5]) + (", …" if len(names) > 5 else "")


def _length(node: Node | None) -> int:
    if isinstance(node, Items):
        return len(node.items)
    return len(node.entries) if isinstance(node, Entries) else 0
