"""Why can A (not) reach B? Answers with the deciding statements, or with the whole blocked path: every setting that
would have to change, in the order in which they stand in the way.

The verdict is the evaluator's. The path is read from the statements, those that do not hold at this instant too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, reduce
from ipaddress import ip_address, ip_network

from rules.compile import RuleSet
from rules.covering import Covering, by_identity
from rules.evaluate import Lineage, between, cannot_pass, denials, enclosing, parts
from rules.granted import letting, passes
from rules.model import Action, Grant, Inventory, Network, Policy, Protocol, Restriction, Service, Statement
from rules.names import nearest
from rules.problems import Parameter, PolicyError, Problem, Reason
from rules.services import BUILT_IN, intersected, merged, numeric, of_family, shown, subtracted
from rules.timed import effective
from rules.validity import holds, next_change
from rules.written import moment_in, statement_line

Services = tuple[Service, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """``allowed`` only if all of the service may pass. ``statements`` decide it; ``reasons`` are the blocked path.

    ``grants`` are the timed grants that let some of it pass which no statement allows.
    """

    allowed: bool
    statements: tuple[Statement, ...]
    reasons: tuple[Reason, ...]
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True)
class _Question:
    """A question whose names exist. ``tenant`` is the one whose statements may be about it; ``address`` the source, if
    it is asked about one address."""

    source: tuple[Lineage, ...]
    destination: tuple[Lineage, ...]
    services: Services
    tenant: str
    params: Mapping[str, Parameter]
    address: Network | None

    @property
    def pairs(self) -> list[tuple[Lineage, Lineage]]:
        return [(one, other) for one in self.source for other in self.destination]


@dataclass(frozen=True, slots=True)
class _About:
    """The statements about a question. ``missing``: what of it no allow or grant that holds covers everywhere."""

    granting: tuple[Statement, ...]
    denying: tuple[Statement, ...]
    dormant: tuple[Statement, ...]
    missing: Services


class Explainer:
    """For many questions about one rule set: what depends on the policy alone is made once.

    ``at`` is the instant the rule set was compiled for. ``gone`` are sites, each with ``revoked`` or ``retired``, that
    inventory and rule set hold as if they were in service, so that all that blocks them can be told.
    """

    def __init__(
        self,
        policy: Policy,
        rule_set: RuleSet,
        inventory: Inventory,
        *,
        at: datetime | None = None,
        gone: Mapping[str, str] | None = None,
    ) -> None:
        self._rule_set = rule_set
        self._covering = Covering(policy)
        self._sites = frozenset(site.name for site in inventory.sites)
        self._at = at
        self._gone = gone or {}

    def explain(self, source: str, destination: str, service: str) -> Explanation:
        """Explain one question. Ends are names (``tokyo-1``, ``tokyo-1/plc``, ``web``) or addresses; the service is a
        name that every policy knows, or a number. For a site's name the answer holds for every address of the site.

        Raises PolicyError if the question itself names something that does not exist.
        """
        problems: list[Problem] = []
        from_, to = end_of(self._rule_set, source, problems), end_of(self._rule_set, destination, problems)
        services = asked(service, problems, self._rule_set.platform.services)
        if not from_ or not to or problems:
            raise PolicyError(problems)
        params: dict[str, Parameter] = {"source": source, "destination": destination, "service": service}
        reasons = [*self._out_of_service(from_, source), *self._out_of_service(to, destination)]
        if any(reason.key == "rules.why-site-gone" for reason in reasons):
            return Explanation(False, (), tuple(reasons))
        if (impossible := cannot_pass(from_[0][0], to[0][0])) is not None:
            reasons.append(Reason(impossible.key, {"source": source, "destination": destination}))
            return Explanation(False, (), tuple(reasons))
        foreign = Protocol.ICMPV6 if to[0][0].network.version == 4 else Protocol.ICMP
        services = subtracted(services, [Service(foreign)])  # what does not exist between the two is not missing there
        if not services:
            return Explanation(False, (), (*reasons, Reason("rules.why-other-family", params)))
        tenant = from_[0][0].tenant or to[0][0].tenant or ""
        question = _Question(from_, to, services, tenant, params, _alone(self._rule_set, source))
        about = self._about(question)
        deciding = by_identity((*about.granting, *about.denying))
        grants: set[Grant] = set()
        missing: list[Service] = []
        for pair in question.pairs:
            left = subtracted(services, _passing(self._rule_set, *pair))
            for grant in self._letting(question, pair) if left else ():
                if intersected(left, opened := passes(self._rule_set, grant, *pair)):
                    grants.add(grant)
                    left = subtracted(left, opened)
            missing.extend(left)
        by_grants = tuple(sorted(grants))
        if not missing:
            return Explanation(not reasons, deciding, tuple(reasons), by_grants)
        reasons += [*self._above(question), *self._in_policy(question, about)]
        return Explanation(False, deciding, tuple(reasons), by_grants)

    def _letting(self, question: _Question, pair: tuple[Lineage, Lineage]) -> list[Grant]:
        source, destination = pair
        network = question.address or source[0].network
        return letting(self._rule_set, network, [endpoint.name for endpoint in destination])

    def _out_of_service(self, end: Sequence[Lineage], name: str) -> Iterable[Reason]:
        site = end[0][0].site
        if site is None:
            return
        if site not in self._sites:
            yield Reason("rules.why-site-gone", {"name": name, "site": site})
        elif site in self._gone:
            key = "rules.why-site-retired" if self._gone[site] == "retired" else "rules.why-site-revoked"
            yield Reason(key, {"name": name, "site": site})

    def _above(self, question: _Question) -> Iterable[Reason]:
        """What stands above the statements: the platform's file, nested groups."""
        platform = self._rule_set.platform
        services, params = question.services, question.params
        if blocked := intersected(services, platform.forbidden):
            yield Reason("rules.why-forbidden", {**params, "blocked": _listed(blocked)})
        for name, side in ((question.source[0][0].name, "opens"), (question.destination[0][0].name, "offers")):
            restriction = platform.servers.get(name, Restriction())
            use = restriction.opens if side == "opens" else restriction.offers
            if blocked := subtracted(services, (*use, *platform.forbidden)):
                found = {**params, "server": name, "blocked": _listed(blocked), "key": side}
                yield Reason("rules.why-server-restricted", found)
        closed = {group.group for pair in question.pairs for group in enclosing(self._rule_set, *pair)}
        if closed:
            yield Reason("rules.why-enclosed", {**params, "groups": ", ".join(sorted(closed))})

    def _in_policy(self, question: _Question, about: _About) -> Iterable[Reason]:
        """What the tenant's own statements would have to say."""
        services, params = question.services, question.params
        if about.denying:
            denied = intersected(services, (one for statement in about.denying for one in statement.services))
            found = {**params, "statements": _placed(about.denying), "blocked": _listed(denied)}
            yield Reason("rules.why-denied", found)
        if not about.missing:
            return
        params = {**params, "statement": self._ready_made(question, about.missing)}
        for one in about.dormant:
            yield self._not_now(question, one)
        open_services = _everywhere(self._rule_set, question.source, question.destination)
        if subtracted(services, about.missing):
            yield Reason("rules.why-partly", {**params, "missing": _listed(about.missing)})
        elif open_services:
            granting = self._granting(question, question.source, question.destination)
            found = {**params, "open": _listed(open_services), "statements": _placed(granting)}
            yield Reason("rules.why-other-services", found)
        elif not about.dormant:
            yield Reason("rules.why-no-statement", params)
        if not subtracted(services, _everywhere(self._rule_set, question.destination, question.source)):
            back = self._granting(question, question.destination, question.source)
            back = [one for one in back if intersected(one.services, services)]
            yield Reason("rules.why-only-reverse", {**question.params, "statements": _placed(back)})

    def _about(self, question: _Question) -> _About:
        granting: list[Statement] = []
        denying: list[Statement] = []
        dormant: list[Statement] = []
        missing: list[Service] = []
        for source, destination in question.pairs:
            allowed: list[Service] = []
            for one in self._statements(question, [source], [destination]):
                if not _common(one.services, question.services):
                    continue
                if not self._holds(one):
                    dormant.append(one)
                elif one.action is Action.DENY:
                    denying.append(one)
                else:
                    granting.append(one)
                    allowed.extend(one.services)
            for grant in self._letting(question, (source, destination)):
                allowed.extend(effective(self._rule_set, grant))
            missing.extend(subtracted(question.services, allowed))
        lacking = merged(missing)
        sleeping = [one for one in dormant if one.action is Action.ALLOW and _common(one.services, lacking)]
        return _About(by_identity(granting), by_identity(denying), by_identity(sleeping), lacking)

    def _statements(
        self, question: _Question, source: Iterable[Lineage], destination: Iterable[Lineage]
    ) -> list[Statement]:
        from_ = [endpoint.name for lined in source for endpoint in lined]
        to = [endpoint.name for lined in destination for endpoint in lined]
        return self._covering.about(question.tenant, from_, to)

    def _granting(
        self, question: _Question, source: Iterable[Lineage], destination: Iterable[Lineage]
    ) -> list[Statement]:
        found = self._statements(question, source, destination)
        return [one for one in found if one.action is Action.ALLOW and self._holds(one)]

    def _holds(self, statement: Statement) -> bool:
        return statement.validity is None or self._at is None or holds(statement.validity, self._at)

    def _not_now(self, question: _Question, statement: Statement) -> Reason:
        params: dict[str, Parameter] = {**question.params, "statements": _placed([statement])}
        validity = statement.validity
        change = next_change(validity, self._at) if validity is not None and self._at is not None else None
        if validity is None or change is None:
            return Reason("rules.why-no-longer", params)
        return Reason("rules.why-not-now", {**params, "next": moment_in(validity.zone, change)})

    def _ready_made(self, question: _Question, missing: Services) -> str:
        whole = missing == merged(question.services) or any(one.protocol is Protocol.OTHER for one in missing)
        written = [str(question.params["service"])] if whole else [shown(one) for one in missing]
        return statement_line(question.source[0][0].name, question.destination[0][0].name, written)


def explain(
    policy: Policy,
    rule_set: RuleSet,
    inventory: Inventory,
    source: str,
    destination: str,
    service: str,
    *,
    at: datetime | None = None,
) -> Explanation:
    """One question alone; see Explainer."""
    return Explainer(policy, rule_set, inventory, at=at).explain(source, destination, service)


def asked(service: str, problems: list[Problem], platform: Mapping[str, Services] | None = None) -> Services:
    """The service of a question; a mistake in it is added to ``problems``."""
    known = {**BUILT_IN, **(platform or {})}
    if service in known:
        return merged(known[service])
    try:
        one = numeric(service)
    except ValueError:
        problems.append(Problem("rules.bad-service-number", {"name": service}))
        return ()
    if one is None:
        guess = nearest(service, known)
        kind = "rules.unknown-service" if guess is None else "rules.unknown-service-similar"
        problems.append(Problem(kind, {"name": service} | ({} if guess is None else {"suggestion": guess})))
        return ()
    return (one,)


def end_of(rule_set: RuleSet, written: str, problems: list[Problem]) -> tuple[Lineage, ...]:
    """The parts that the words stand for; a mistake in them is added to ``problems``."""
    if (named := rule_set.endpoints.get(written)) is not None:
        return parts(rule_set, named)
    try:
        address = ip_address(written)
    except ValueError:
        guess = nearest(written, rule_set.endpoints)
        kind = "rules.unknown-end" if guess is None else "rules.unknown-end-similar"
        problems.append(Problem(kind, {"name": written} | ({} if guess is None else {"suggestion": guess})))
        return ()
    found = rule_set.whereabouts.at(address)
    if not found:
        problems.append(Problem("rules.unknown-address", {"address": written}))
        return ()
    return (found,)


def _alone(rule_set: RuleSet, written: str) -> Network | None:
    """The one address that the words stand for; None: they are a name."""
    return None if written in rule_set.endpoints else ip_network(ip_address(written))


# Statements are many, combinations of services few.
@lru_cache(maxsize=4096)
def _common(services: Services, others: Services) -> Services:
    return intersected(services, others)


def _passing(rule_set: RuleSet, source: Lineage, destination: Lineage) -> Services:
    """All that may pass from one part to the other: evaluate.passing for a single pair, whose cost is that of the
    source's clauses and not of all their destinations."""
    if cannot_pass(source[0], destination[0]) is not None or enclosing(rule_set, source, destination):
        return ()
    granted = {one for clause in between(rule_set, source, destination) for one in clause.services}
    denied = {one for clause in denials(rule_set, source, destination) for one in clause.services}
    left = subtracted(granted, denied.union(rule_set.platform.forbidden))
    return of_family(left, destination[0].network.version)


def _everywhere(rule_set: RuleSet, source: Iterable[Lineage], destination: Sequence[Lineage]) -> Services:
    """All that may pass from each part of the source to each part of the destination."""
    return reduce(intersected, [_passing(rule_set, one, other) for one in source for other in destination])


def _placed(statements: Iterable[Statement]) -> str:
    """The statements with their places, so that they can be found and changed."""
    return ", ".join(f"{one.id} ({one.place})" for one in by_identity(statements))


def _listed(services: Iterable[Service]) -> str:
    return ", ".join(shown(service) for service in services)
