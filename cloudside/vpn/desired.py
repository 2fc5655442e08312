"""What the registry wants of this gateway, read in one consistent view."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cloudside.config import Config, Network
from cloudside.datapath.problems import Problem, of, problem
from cloudside.errors import ConfigurationError
from cloudside.pki import published
from cloudside.pki.published import GatewayCredentials
from cloudside.registry import certificates, inventory
from cloudside.registry.database import Database
from rules.compile import RuleSet, compile_policy
from rules.model import Inventory
from rules.parse import parse_stored
from rules.problems import Problem as RuleProblem


@dataclass(frozen=True, slots=True)
class Desired:
    """The inventory (no revoked or retired site is in it), what its policies decide, and what charon has to know."""

    inventory: Inventory
    rule_set: RuleSet
    #: None: they cannot be read; ``problems`` says why.
    credentials: GatewayCredentials | None
    problems: tuple[Problem, ...]
    #: Site -> when a certificate of its was last revoked: its router was enrolled again.
    revocations: Mapping[str, datetime]

    @property
    def site_prefixes(self) -> Mapping[str, Network]:
        """Site -> overlay prefix."""
        return {site.name: site.prefix for site in self.inventory.sites}


def read(database: Database, config: Config, *, now: datetime) -> Desired:
    """Read and compile. A tenant's policy that no longer holds costs that tenant its grants and nobody else's.

    Raises UnavailableError or ConfigurationError (the registry), PolicyError (the inventory contradicts itself).
    """
    with database.read() as session:
        found = inventory.load(session)
        sources = inventory.policy_sources(session)
        platform = inventory.platform_source(session)
        revocations = certificates.last_revocations(session, kind="site", now=now)
        ended = [kept.authority for kept in certificates.revocation_lists(session) if kept.next_update <= now]
        troubles = [problem("vpn.revocation-list-ended", authority=authority) for authority in ended]
        credentials: GatewayCredentials | None = None
        try:
            credentials = published.load_gateway(session, config, now=now)
        except ConfigurationError as error:
            troubles.append(of(error.key, error.params))
    policy, mistakes = parse_stored(sources, found, platform)
    troubles += [of_rule(mistake) for mistake in mistakes]
    return Desired(found, compile_policy(policy, found, at=now), credentials, tuple(troubles), revocations)


def of_rule(mistake: RuleProblem) -> Problem:
    """A problem of the rules in the gateway's report, with its place."""
    return of(mistake.kind, {**mistake.params, **({"place": mistake.place} if mistake.place else {})})
