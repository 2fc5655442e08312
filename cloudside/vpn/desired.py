"""What the registry wants of this gateway, read in one consistent view."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from cloudside.config import Config, Network
from cloudside.datapath.problems import Problem, of, problem
from cloudside.errors import ConfigurationError
from cloudside.pki import published
from cloudside.pki.authority import BACKDATE
from cloudside.pki.published import GatewayCredentials
from cloudside.registry import certificates, grants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.inventory import InventoryReader
from rules.compile import RuleSet, assemble
from rules.model import Policy
from rules.parse import Drafts, parse_parts
from rules.parts import Parts
from rules.problems import Problem as RuleProblem


@dataclass(frozen=True, slots=True)
class Desired:
    """The inventory (no revoked or retired site is in it), and what its policies decide."""

    parts: Parts
    rule_set: RuleSet
    problems: tuple[Problem, ...]
    site_prefixes: Mapping[str, Network] = field(repr=False)
    #: The tenants' blocks.
    blocks: tuple[Network, ...]
    #: When the rules have to be read or compiled again even if nobody changes anything.
    next_change: datetime | None


@dataclass(frozen=True, slots=True)
class Trust:
    """What charon has to know. ``credentials`` None: they cannot be read; ``problems`` says why.

    ``revocations``: site -> when a certificate of its was last revoked, because its router was enrolled again.
    """

    credentials: GatewayCredentials | None
    revocations: Mapping[str, datetime]
    problems: tuple[Problem, ...]


class DesiredReader:
    """Reads again and again, and each time no more than what changed. One for the daemon."""

    def __init__(self, database: Database, config: Config) -> None:
        self._database = database
        self._config = config
        self._inventory = InventoryReader()
        self._drafts = Drafts()
        self._policy: Policy | None = None
        self._last: Desired | None = None

    def read(self, *, now: datetime, whole: bool = True, again: Collection[str] | None = None) -> Desired:
        """Read and compile. A tenant's policy that no longer holds costs that tenant its grants and nobody else's.

        Without ``whole`` only what a writing session marked is looked at, and the tenants ``again``. Raises
        UnavailableError or ConfigurationError (the registry), PolicyError (the inventory contradicts itself).
        """
        with self._database.read() as session:
            found = self._inventory.read(session, whole=whole, again=again)
            visits = grants.active(session, OPERATOR, now=now)
            next_start = grants.next_start(session, OPERATOR, now=now)
        policy, mistakes = parse_parts(found.policies, found.parts, found.platform, drafts=self._drafts)
        last = self._last
        holding = [grants.for_rules(one) for one in visits]
        before = None if last is None else last.rule_set
        rule_set = assemble(policy, found.parts, at=now, grants=holding, previous=before)
        everybody = list(found.parts.own.values())
        self._policy = policy
        self._last = Desired(
            found.parts,
            rule_set,
            tuple(of_rule(mistake) for mistake in mistakes),
            {site.name: site.prefix for part in everybody for site in part.sites},
            tuple(block for part in everybody for block in part.tenants.values()),
            min((at for at in (next_start, rule_set.next_change) if at is not None), default=None),
        )
        return self._last

    def trust(self, *, now: datetime) -> Trust:
        """Read what charon has to know. Apart from the rules, which do not wait for it: keys are files to be read and
        certificates to be parsed. Raises UnavailableError or ConfigurationError (the registry).
        """
        with self._database.read() as session:
            revocations = certificates.last_revocations(session, kind="site", now=now, backdated=BACKDATE)
            ended = [kept.authority for kept in certificates.revocation_lists(session) if kept.next_update <= now]
            troubles = [problem("vpn.revocation-list-ended", authority=authority) for authority in ended]
            credentials: GatewayCredentials | None = None
            try:
                credentials = published.load_gateway(session, self._config, now=now)
            except ConfigurationError as error:
                troubles.append(of(error.key, error.params))
        return Trust(credentials, revocations, tuple(troubles))

    def later(self, *, now: datetime) -> Desired | None:
        """What was read last, as it is at another instant: statements end on time also while the registry is away."""
        if self._last is not None and self._policy is not None:
            before = self._last.rule_set
            rule_set = assemble(self._policy, self._last.parts, at=now, grants=before.grants, previous=before)
            self._last = replace(self._last, rule_set=rule_set, next_change=rule_set.next_change)
        return self._last


def of_rule(mistake: RuleProblem) -> Problem:
    """A problem of the rules in the gateway's report, with its place."""
    return of(mistake.kind, {**mistake.params, **({"place": mistake.place} if mistake.place else {})})
