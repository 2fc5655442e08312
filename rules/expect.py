"""Does a policy keep what it promises? Holds the expectations in a tenant's file against the compiled rules."""

from rules.compile import RuleSet
from rules.evaluate import Lineage, between, evaluate, parts, passing
from rules.model import ICMP_STARTING, Address, Expectation, Kind, Packet, Policy, Protocol, Service, TenantPolicy
from rules.problems import Problem, Reason, problem
from rules.services import intersected, merged, of_family, shown, subtracted

#: A protocol that no service names by itself: GRE.
_SOME_OTHER = 47

#: Messages that pass with their flow or not at all, whatever a policy opens.
_STARTS_NOTHING = merged(
    Service(Protocol.ICMP, kind * 256, kind * 256 + 255) for kind in range(256) if kind not in ICMP_STARTING
)


def check(rule_set: RuleSet, policy: Policy) -> list[Problem]:
    """Every expectation of the policy that does not hold at the rule set's instant. For those who are about to put a
    policy in force: one that breaks its own expectations is refused.
    """
    return [found for _, own in sorted(policy.tenants.items()) for found in unmet(rule_set, own)]


def unmet(rule_set: RuleSet, policy: TenantPolicy) -> list[Problem]:
    """What one tenant's file expects and does not get, each at the place of the expectation, with the reason after it
    at the same place. An expectation about a name that is gone is passed over: that is told by the reader.
    """
    problems: list[Problem] = []
    for expected in policy.expectations:
        ends = rule_set.endpoints.get(expected.source), rule_set.endpoints.get(expected.destination)
        if ends[0] is None or ends[1] is None:
            continue
        pairs = [(one, other) for one in parts(rule_set, ends[0]) for other in parts(rule_set, ends[1])]
        if expected.reachable:
            problems += _blocked(rule_set, expected, pairs)
        else:
            problems += _open(rule_set, expected, pairs)
    return problems


_Pairs = list[tuple[Lineage, Lineage]]


def _blocked(rule_set: RuleSet, expected: Expectation, pairs: _Pairs) -> list[Problem]:
    """The first pair of parts of which not all passes, and why."""
    for source, destination in pairs:
        asked = of_family(expected.services, destination[0].network.version)
        missing = subtracted(asked, passing(rule_set, source, destination)) if asked else expected.services
        if subtracted(asked, _STARTS_NOTHING):
            missing = subtracted(missing, _STARTS_NOTHING)
        if missing:
            ends = {"source": source[0].name, "destination": destination[0].name}
            services = ", ".join(map(shown, missing))
            found = [problem("rules.expectation-blocked", expected.place, **ends, services=services)]
            if not asked:
                why: Reason | None = Reason("rules.why-other-family", {**ends, "service": services})
            else:
                why = _reason(rule_set, source, destination, missing[0])
            return found if why is None else [*found, problem(why.key, expected.place, **why.params)]
    return []


def _open(rule_set: RuleSet, expected: Expectation, pairs: _Pairs) -> list[Problem]:
    """The first pair of parts between which something passes, and the statements that let it."""
    for source, destination in pairs:
        found = subtracted(intersected(expected.services, passing(rule_set, source, destination)), _STARTS_NOTHING)
        if found:
            clauses = between(rule_set, source, destination)
            statements = sorted({one.statement for one in clauses if intersected(one.services, found)})
            return [
                problem(
                    "rules.expectation-open",
                    expected.place,
                    source=source[0].name,
                    destination=destination[0].name,
                    services=", ".join(map(shown, merged(found))),
                    statements=", ".join(statements),
                )
            ]
    return []


def _reason(rule_set: RuleSet, source: Lineage, destination: Lineage, service: Service) -> Reason | None:
    """Why the gateway drops such a packet between the two."""
    ends = _address(rule_set, source), _address(rule_set, destination)
    if ends[0] is None or ends[1] is None:
        return None
    return evaluate(rule_set, _packet(ends[0], ends[1], service)).reason


def _address(rule_set: RuleSet, part: Lineage) -> Address | None:
    """An address of this very part; None where a site has no address besides its devices'."""
    network = part[0].network
    if part[0].kind is not Kind.SITE:
        return network.network_address
    addresses = (network.network_address + number for number in range(min(network.num_addresses, 1024)))
    return next((one for one in addresses if rule_set.whereabouts.at(one) == part), None)


def _packet(source: Address, destination: Address, service: Service) -> Packet:
    protocol = service.protocol
    if protocol in (Protocol.ICMP, Protocol.ICMPV6):
        kind, code = divmod(service.low, 256)
        return Packet(source, destination, protocol, icmp_type=kind, icmp_code=code)
    if protocol in (Protocol.ANY, Protocol.TCP):
        return Packet(source, destination, Protocol.TCP, service.low or 1)
    if protocol is Protocol.UDP:
        return Packet(source, destination, protocol, service.low or 1)
    return Packet(source, destination, _SOME_OTHER)
