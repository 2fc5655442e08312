"""One tenant's file: its text -> a draft, with every mistake told at its place. Knows no inventory.

Does not decide what passes (compile does) and keeps no order between statements: it has no meaning.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping

from rules.document import Entries, Items, Node, Scalar, read
from rules.draft import Draft, Group, Use
from rules.groups import read_apart, read_groups
from rules.keys import STATEMENT, TENANT_FILE
from rules.model import (
    Action,
    Expectation,
    Nested,
    Platform,
    PolicySource,
    Remark,
    Service,
    Statement,
    StatementId,
    TenantPolicy,
)
from rules.problems import PolicyError
from rules.services import BUILT_IN, PROTOCOLS, shown, subtracted
from rules.shapes import NAME, Shapes, Vocabulary, short

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
#: The form of an expectation; a comma ends a service, so white space around it is free.
EXPECTATION = re.compile(
    r"(?P<source>\S+) (?P<verb>can|cannot) reach (?P<destination>\S+) (?P<services>\S.*)", re.DOTALL
)

_Side = tuple[tuple[str, ...], frozenset[str]]


def draft(source: PolicySource, platform: Platform) -> Draft:
    """Read a file."""
    return _TenantFile(source, platform).read()


class _TenantFile(Shapes):
    """One file while it is read: what holds so far, and what does not."""

    def __init__(self, source: PolicySource, platform: Platform) -> None:
        super().__init__(source.file_name)
        self._source = source
        self._tenant = source.tenant
        self._platform = platform
        self._limits = platform.tenants.get(source.tenant, platform.limits)
        self._given = {**BUILT_IN, **platform.services}
        self._vocabulary = Vocabulary(self._given)
        self._own_services: dict[str, Scalar] = {}
        self._groups: dict[str, Group] = {}
        #: Sides that name one group only: statements of one group share its very members.
        self._whole: dict[str, _Side] = {}
        self._lists: dict[tuple[str, ...], _Side] = {}
        self._used: set[str] = set()
        self._mentions: dict[str, list[Scalar]] = {}
        self._listed: dict[str, list[Scalar]] = {}
        self._uses: list[Use] = []
        self._forbidden: dict[tuple[Service, ...], bool] = {}
        self._by_id: dict[StatementId, Statement] = {}
        self._expectations: list[Expectation] = []

    def read(self) -> Draft:
        """The draft; it holds what could be read."""
        tenant: Scalar | None = None
        apart: tuple[tuple[tuple[Scalar, frozenset[str]], ...], ...] = ()
        try:
            root, self.problems = read(self._source.text, self.file_name)
        except PolicyError as error:
            self.problems = list(error.problems)
            top = None
        else:
            top = self.mapping(root, TENANT_FILE)
        if top is not None:
            if "tenant" in top and (written := self.text(top["tenant"])) is not None:
                if written.text == self._tenant:
                    tenant = written
                else:
                    self.wrong("rules.wrong-tenant", written, written=written.text, tenant=self._tenant)
            if "groups" in top:
                self._groups = read_groups(self, top["groups"], self._list)
                self._whole = {name: ((name,), group.members) for name, group in self._groups.items()}
            if "forbid-dual-membership" in top:
                apart = read_apart(self, top["forbid-dual-membership"], self._groups)
            if "services" in top:
                self._read_services(top["services"])
            self._check_limits(top)
            for action in Action:
                if action.value in top and (listed := self.items(top[action.value])) is not None:
                    for item in listed.items:
                        self._read_statement(item, action)
            if "expect" in top and (listed := self.items(top["expect"])) is not None:
                for item in listed.items:
                    self._read_expectation(item)
        self._used |= {text.text for row in apart for text, _ in row}
        return Draft(
            self._source,
            self._platform,
            self._policy(),
            tuple(self.problems),
            tenant,
            tuple(self._groups.values()),
            self._limits.members,
            self._mentions,
            self._listed,
            apart,
            self._uses,
        )

    def _policy(self) -> TenantPolicy:
        statements = sorted(self._by_id.values(), key=lambda statement: statement.id)
        nested = (
            Nested(self._tenant, name, group.members) for name, group in sorted(self._groups.items()) if group.nested
        )
        return TenantPolicy(
            self._tenant,
            tuple(statements),
            tuple(nested),
            tuple(self._expectations),
            tuple(self._remarks()),
            {name: group.members for name, group in sorted(self._groups.items())},
        )

    def _remarks(self) -> Iterable[Remark]:
        """What of the definitions has no use. A nested group has one by itself, and so has the group around it."""
        for name, group in self._groups.items():
            for member in group.doubled:
                yield Remark("rules.advice-twice", {"name": short(member.text), "group": name}, self.place(member))
            if not (name in self._used or group.nested or group.outer):
                yield Remark("rules.advice-unused-group", {"name": name}, self.place(group.name))
        used = {
            one for written in self._vocabulary.lists for one in ((written,) if isinstance(written, str) else written)
        }
        for name, key in self._own_services.items():
            if name not in used:
                yield Remark("rules.advice-unused-service", {"name": name}, self.place(key))

    def _list(self, text: Scalar) -> None:
        """Remember that an endpoint is named where no group may stand."""
        self._listed.setdefault(text.text, []).append(text)

    # -- definitions --------------------------------------------------------------------------------------------

    def _read_services(self, node: Node) -> None:
        known = dict(self._given)
        for key, value in self.new_names(node):
            if key.text in self._given or key.text in PROTOCOLS:
                self.wrong("rules.service-built-in", key, name=key.text)
            known[key.text] = self.service_set(value, self._vocabulary)
            self._own_services[key.text] = key
        self._vocabulary = Vocabulary(known)

    def _check_limits(self, top: Mapping[str, Node]) -> None:
        """Tell what there is more of than the platform grants this tenant."""

        def check(kind: str, node: Node | None, found: int, limit: int | None) -> None:
            if node is not None and limit is not None and found > limit:
                self.wrong(kind, node, found=found, limit=limit)

        groups, services = top.get("groups"), top.get("services")
        check("rules.limit-groups", groups, _length(groups), self._limits.groups)
        check("rules.limit-services", services, _length(services), self._limits.services)
        listed = [top[action.value] for action in Action if action.value in top]
        if listed:
            check("rules.limit-statements", listed[0], sum(map(_length, listed)), self._limits.statements)

    # -- statements ---------------------------------------------------------------------------------------------

    def _read_statement(self, node: Node, action: Action) -> None:
        before = len(self.problems)
        keys = self.mapping(node, STATEMENT)
        if keys is None:
            return
        name = self._statement_name(keys["name"]) if "name" in keys else ""
        written_from, sources = self._side(keys.get("from"))
        written_to, destinations = self._side(keys.get("to"))
        services = self.service_set(keys["services"], self._vocabulary) if "services" in keys else ()
        both = "both" in keys and self.flag(keys["both"])
        validity = self.validity(keys["valid"]) if "valid" in keys else None
        owner = self.remark(keys["owner"]) if "owner" in keys else ""
        reason = self.remark(keys["reason"]) if "reason" in keys else ""
        place = self.place(node)
        if sources and destinations:
            self._uses.append(Use(place, written_from, written_to, sources, destinations))
        if action is Action.ALLOW and services and self._platform.forbidden and self._all_forbidden(services):
            self.wrong("rules.service-forbidden", keys["services"], services=", ".join(map(shown, services)))
        if not sources or not destinations:
            return
        if len(self.problems) > before and any(one.kind not in COMES_WITH_TIME for one in self.problems[before:]):
            return
        if not name:
            content = repr((sorted(written_from), sorted(written_to), [shown(one) for one in services], both))
            content += "" if action is Action.ALLOW else action.value
            content += "" if validity is None else repr(validity)
            name = "~" + hashlib.sha256(content.encode()).hexdigest()[:12]
        identity = StatementId(f"{self._tenant}/{name}")
        if (first := self._by_id.get(identity)) is not None:
            kind = "rules.same-statement" if name.startswith("~") else "rules.same-name"
            self.wrong(kind, node, name=name, first_line=first.place.line)
            return
        self._by_id[identity] = Statement(
            identity,
            self._tenant,
            sources,
            destinations,
            services,
            both,
            owner,
            reason,
            place,
            action,
            validity,
        )

    def _statement_name(self, node: Node) -> str:
        text = self.text(node)
        if text is None:
            return ""
        if not NAME.fullmatch(text.text):
            self.wrong("rules.bad-name", text, name=short(text.text))
        return text.text

    def _side(self, node: Node | None) -> _Side:
        """The names as written, and those they stand for, groups opened up."""
        if type(node) is Scalar and (whole := self._whole.get(node.text)) is not None:
            self._used.add(node.text)
            return whole
        texts = [] if node is None else self.texts(node)
        written = tuple(text.text for text in texts)
        if len(written) == 1 and (whole := self._whole.get(written[0])) is not None:
            self._used.add(written[0])
            return whole
        for text in texts:
            if text.text in self._groups:
                self._used.add(text.text)
            else:
                self._mentions.setdefault(text.text, []).append(text)
        if (before := self._lists.get(written)) is not None:
            return before
        found: set[str] = set()
        for name in written:
            if (group := self._groups.get(name)) is not None:
                found |= group.members
            else:
                found.add(name)
        self._lists[written] = written, frozenset(found)
        return self._lists[written]

    def _all_forbidden(self, services: tuple[Service, ...]) -> bool:
        if services not in self._forbidden:
            self._forbidden[services] = not subtracted(services, self._platform.forbidden)
        return self._forbidden[services]

    # -- expectations -------------------------------------------------------------------------------------------

    def _read_expectation(self, node: Node) -> None:
        text = self.text(node)
        if text is None:
            return
        sentence = EXPECTATION.fullmatch(" ".join(text.text.split()))
        services_written = [] if sentence is None else [one.strip() for one in sentence["services"].split(",")]
        if sentence is None or not all(services_written):
            self.wrong("rules.bad-expectation", text, text=short(text.text))
            return
        before = len(self.problems)
        ends = [text._replace(text=sentence[side]) for side in ("source", "destination")]
        for end in ends:
            if end.text in self._groups:
                self.wrong("rules.expectation-of-group", text, name=short(end.text))
            else:
                self._list(end)
        names: list[Node] = [text._replace(text=name) for name in services_written]
        services = self.service_set(Items(names, text.line, text.column), self._vocabulary)
        if len(self.problems) > before:
            return
        source, destination = (end.text for end in ends)
        place = self.place(text)
        self._uses.append(Use(place, (source,), (destination,), frozenset([source]), frozenset([destination])))
        self._expectations.append(Expectation(source, destination, services, sentence["verb"] == "can", place))


def _length(node: Node | None) -> int:
    if isinstance(node, Items):
        return len(node.items)
    return len(node.table) if isinstance(node, Entries) else 0
