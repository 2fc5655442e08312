"""Why can A (not) reach B? Answers with the deciding statements, or with what would have to change."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from rules.compile import Clause, RuleSet
from rules.evaluate import Lineage, between, cannot_pass, denials, enclosing, everywhere, parts, passing
from rules.model import Endpoint, Inventory, Policy, Restriction, Service, Statement
from rules.names import nearest
from rules.problems import PolicyError, Problem, Reason
from rules.services import BUILT_IN, intersected, merged, numeric, of_family, shown, subtracted


@dataclass(frozen=True, slots=True)
class Explanation:
    """``allowed`` only if all of the service may pass. ``statements`` decide it; ``reasons`` say why it is blocked."""

    allowed: bool
    statements: tuple[Statement, ...]
    reasons: tuple[Reason, ...]


def explain(
    policy: Policy, rule_set: RuleSet, inventory: Inventory, source: str, destination: str, service: str
) -> Explanation:
    """Explain one question. Ends are names (``tokyo-1``, ``tokyo-1/plc``, ``web``) or addresses; the service is a
    built-in name or a number. For a site's name the answer holds for every address of the site.

    Raises PolicyError if the question itself names something that does not exist.
    """
    problems: list[Problem] = []
    from_, to = _end(rule_set, source, problems), _end(rule_set, destination, problems)
    services = asked(service, problems)
    if not from_ or not to or problems:
        raise PolicyError(problems)
    params = {"source": source, "destination": destination, "service": service}
    for end, name in ((from_[0][0], source), (to[0][0], destination)):
        if end.site is not None and end.site not in {site.name for site in inventory.sites}:
            return Explanation(False, (), (Reason("rules.why-site-gone", {"name": name, "site": end.site}),))
    if (impossible := cannot_pass(from_[0][0], to[0][0])) is not None:
        return Explanation(False, (), (Reason(impossible.key, {"source": source, "destination": destination}),))
    services = of_family(services, to[0][0].network.version)
    if not services:
        return Explanation(False, (), (Reason("rules.why-other-family", params),))
    by_id = {statement.id: statement for statement in policy.statements}
    pairs = [(one, other) for one in from_ for other in to]
    missing = merged(one for pair in pairs for one in subtracted(services, passing(rule_set, *pair)))
    granted = between(rule_set, from_[0], to[0])
    denied = [clause for pair in pairs for clause in denials(rule_set, *pair) if _touches(clause, services)]
    clauses = [clause for clause in granted if _touches(clause, services)] + denied
    statements = tuple(by_id[one] for one in sorted({clause.statement for clause in clauses}) if one in by_id)
    if not missing:
        return Explanation(True, statements, ())
    reasons: list[Reason] = []
    open_services = everywhere(rule_set, from_, to)
    closed = {group.group for pair in pairs for group in enclosing(rule_set, *pair)}
    if closed:
        reasons.append(Reason("rules.why-enclosed", {**params, "groups": ", ".join(sorted(closed))}))
    restricted = _restrictions(rule_set, from_[0][0], to[0][0])
    if blocked := subtracted(services, restricted):
        reasons.append(Reason("rules.why-platform", {**params, "blocked": _listed(blocked)}))
    if denied:
        reasons.append(Reason("rules.why-denied", {**params, "statements": _ids(denied)}))
    if subtracted(services, missing):
        reasons.append(Reason("rules.why-partly", {**params, "missing": _listed(missing)}))
    elif not subtracted(services, (one for clause in granted for one in clause.services)):
        pass  # but for the denials it would pass
    elif open_services:
        found = {**params, "open": _listed(open_services), "statements": _ids(granted)}
        reasons.append(Reason("rules.why-other-services", found))
    else:
        reasons.append(Reason("rules.why-no-statement", params))
    if not subtracted(services, everywhere(rule_set, to, from_)):
        back = _ids(between(rule_set, to[0], from_[0]))
        reasons.append(Reason("rules.why-only-reverse", {**params, "statements": back}))
    return Explanation(False, statements, tuple(reasons))


def _restrictions(rule_set: RuleSet, source: Endpoint, destination: Endpoint) -> tuple[Service, ...]:
    """What the platform leaves open between the two."""
    platform = rule_set.platform
    opens = platform.servers.get(source.name, Restriction()).opens
    offers = platform.servers.get(destination.name, Restriction()).offers
    return intersected(subtracted(opens, platform.forbidden), offers)


def _touches(clause: Clause, services: tuple[Service, ...]) -> bool:
    return bool(intersected(clause.services, services))


def _ids(clauses: Iterable[Clause]) -> str:
    return ", ".join(sorted({clause.statement for clause in clauses}))


def asked(service: str, problems: list[Problem]) -> tuple[Service, ...]:
    """The service of a question; a mistake in it is added to ``problems``."""
    if service in BUILT_IN:
        return merged(BUILT_IN[service])
    try:
        one = numeric(service)
    except ValueError:
        problems.append(Problem("rules.bad-service-number", {"name": service}))
        return ()
    if one is None:
        guess = nearest(service, BUILT_IN)
        kind = "rules.unknown-service" if guess is None else "rules.unknown-service-similar"
        problems.append(Problem(kind, {"name": service} | ({} if guess is None else {"suggestion": guess})))
        return ()
    return (one,)


def _end(rule_set: RuleSet, written: str, problems: list[Problem]) -> tuple[Lineage, ...]:
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


def _listed(services: tuple[Service, ...]) -> str:
    return ", ".join(shown(service) for service in services)
