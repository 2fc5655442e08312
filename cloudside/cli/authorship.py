"""Who wrote a statement, and when: the version in which it first stood as it stands now."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from cloudside.cli.plans import stored

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from cloudside.registry.callers import Caller
    from cloudside.registry.tables import Policy as Version
    from rules.model import Inventory, PlatformSource, Statement, StatementId

#: Characters of older versions read for one answer: about half a second.
READ_MAX_CHARS = 300_000


@dataclass(frozen=True, slots=True)
class Authorship:
    """``exact`` False: it may be older, in versions that were not read."""

    version: int
    author: str
    applied_at: "datetime"
    exact: bool


def written_by(
    session: "Session",
    caller: "Caller",
    statements: "Iterable[Statement]",
    known: "Inventory",
    platform: "PlatformSource | None",
) -> "dict[StatementId, Authorship]":
    """For each statement of a policy in force. A statement is the same while it covers the same and says the same;
    where in the file it stands is nothing to it."""
    from cloudside.registry import policies

    found: dict[StatementId, Authorship] = {}
    by_tenant: dict[str, dict[StatementId, Statement]] = {}
    for one in statements:
        by_tenant.setdefault(one.tenant, {})[one.id] = one
    for tenant, wanted in by_tenant.items():
        versions = policies.versions(session, caller, tenant)
        found |= {identity: _of(versions[0]) for identity in wanted} if versions else {}
        left = dict(wanted)
        budget = READ_MAX_CHARS
        for newer, older in pairwise(versions):
            if not left:
                break
            if newer.text != older.text:
                budget -= len(older.text)
                if budget < 0:
                    found |= {one: _of(newer, exact=False) for one in left}
                    break
                policy, _ = stored(tenant, older.file_name, older.text, known, platform)
                then = {one.id: _content(one) for one in policy.statements}
                left = {identity: one for identity, one in left.items() if then.get(identity) == _content(one)}
            found |= {identity: _of(older) for identity in left}
    return found


def _of(version: "Version", *, exact: bool = True) -> Authorship:
    return Authorship(version.version, version.author, version.applied_at, exact)


def _content(one: "Statement") -> tuple[object, ...]:
    return (
        *(one.sources, one.destinations, one.services, one.both, one.action, one.validity),
        *(one.owner, one.reason),
    )
