"""Why can A (not) reach B? Answers with the deciding statements, or with what would have to change."""

from dataclasses import dataclass
from ipaddress import ip_address

from rules.compile import RuleSet
from rules.evaluate import allowed_services, between, cannot_pass, lineage
from rules.model import Endpoint, Inventory, Policy, Service, Statement
from rules.names import nearest
from rules.problems import PolicyError, Problem, Reason
from rules.services import BUILT_IN, merged, numeric, of_family, shown, subtracted


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
    if from_ is None or to is None or problems:
        raise PolicyError(problems)
    params = {"source": source, "destination": destination, "service": service}
    for end, name in ((from_, source), (to, destination)):
        if end.site is not None and end.site not in {site.name for site in inventory.sites}:
            return Explanation(False, (), (Reason("rules.why-site-gone", {"name": name, "site": end.site}),))
    if (impossible := cannot_pass(from_, to)) is not None:
        return Explanation(False, (), (Reason(impossible.key, {"source": source, "destination": destination}),))
    grants = between(rule_set, lineage(rule_set, from_), lineage(rule_set, to))
    services = of_family(services, to.network.version)
    open_services = allowed_services(rule_set, from_, to)
    missing = subtracted(services, open_services)
    if not services:
        return Explanation(False, (), (Reason("rules.why-other-family", params),))
    by_id = {statement.id: statement for statement in policy.statements}
    deciding = sorted({grant.statement for grant in grants if subtracted(services, grant.services) != services})
    statements = tuple(by_id[identity] for identity in deciding if identity in by_id)
    if not missing:
        return Explanation(True, statements, ())
    reasons: list[Reason] = []
    if statements:
        reasons.append(Reason("rules.why-partly", {**params, "missing": _listed(missing)}))
    elif open_services:
        ids = ", ".join(sorted({grant.statement for grant in grants}))
        reasons.append(
            Reason("rules.why-other-services", {**params, "open": _listed(open_services), "statements": ids})
        )
    else:
        reasons.append(Reason("rules.why-no-statement", params))
    if not subtracted(services, allowed_services(rule_set, to, from_)):
        back = between(rule_set, lineage(rule_set, to), lineage(rule_set, from_))
        ids = ", ".join(sorted({grant.statement for grant in back}))
        reasons.append(Reason("rules.why-only-reverse", {**params, "statements": ids}))
    return Explanation(False, statements, tuple(reasons))


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


def _end(rule_set: RuleSet, written: str, problems: list[Problem]) -> Endpoint | None:
    if (named := rule_set.endpoints.get(written)) is not None:
        return named
    try:
        address = ip_address(written)
    except ValueError:
        guess = nearest(written, rule_set.endpoints)
        kind = "rules.unknown-end" if guess is None else "rules.unknown-end-similar"
        problems.append(Problem(kind, {"name": written} | ({} if guess is None else {"suggestion": guess})))
        return None
    found = rule_set.whereabouts.at(address)
    if not found:
        problems.append(Problem("rules.unknown-address", {"address": written}))
        return None
    return found[0]


def _listed(services: tuple[Service, ...]) -> str:
    return ", ".join(shown(service) for service in services)
