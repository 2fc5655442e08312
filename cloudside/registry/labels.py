"""Labels of sites, ``key=value``: what operators and customers choose sites by.

One has a meaning of its own: sites of one tenant with the same value of EXCLUSIVE are never updated at once (the two
gateways of a building).
"""

import re
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, combined
from cloudside.registry import sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Site, SiteLabel

EXCLUSIVE = "exclusive"
#: Of one site.
LABELS_MAX = 32
KEY_MAX_CHARS, VALUE_MAX_CHARS = 40, 63

_KEY = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?\Z", re.ASCII)
_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z", re.ASCII)


def set_labels(session: Session, caller: Caller, *, site_id: str, changes: Mapping[str, str | None]) -> dict[str, str]:
    """Set some of a site's labels; None takes one away. Returns all it has then.

    Raises InputError (or InputErrors) and changes nothing then: unknown site, bad key or value, too many.
    """
    site = sites.get(session, caller, site_id)
    problems = [problem for key, value in changes.items() for problem in _problems(key, value)]
    if problems:
        raise combined(problems)
    standing = {row.key: row for row in session.scalars(select(SiteLabel).where(SiteLabel.site_id == site.id))}
    wanted = {**{key: row.value for key, row in standing.items()}, **changes}
    kept = {key: value for key, value in wanted.items() if value is not None}
    if len(kept) > LABELS_MAX:
        raise InputError("registry.too-many-labels", site=site.id, most=LABELS_MAX)
    for key, value in changes.items():
        row = standing.get(key)
        if value is None:
            if row is not None:
                session.delete(row)
        elif row is None:
            session.add(SiteLabel(site_id=site.id, key=key, value=value))
        else:
            row.value = value
    session.flush()
    return dict(sorted(kept.items()))


def of_site(session: Session, caller: Caller, site_id: str) -> dict[str, str]:
    """A site's labels. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    query = select(SiteLabel).where(SiteLabel.site_id == site.id).order_by(SiteLabel.key)
    return {row.key: row.value for row in session.scalars(query)}


def every(session: Session, caller: Caller) -> dict[str, dict[str, str]]:
    """The labels of all sites of the caller that have any, by site."""
    query = select(SiteLabel.site_id, SiteLabel.key, SiteLabel.value).order_by(SiteLabel.site_id, SiteLabel.key)
    if caller.tenant is not None:
        query = query.join(Site, Site.id == SiteLabel.site_id).where(Site.tenant_id == caller.tenant)
    found: dict[str, dict[str, str]] = {}
    for site, key, value in session.execute(query):
        found.setdefault(site, {})[key] = value
    return found


def exclusive(session: Session, caller: Caller) -> dict[str, str]:
    """Site -> the word that it shares with those that it excludes: unique to its tenant."""
    query = (
        select(SiteLabel.site_id, Site.tenant_id, SiteLabel.value)
        .join(Site, Site.id == SiteLabel.site_id)
        .where(SiteLabel.key == EXCLUSIVE)
    )
    if caller.tenant is not None:
        query = query.where(Site.tenant_id == caller.tenant)
    return {site: f"{tenant}/{value}" for site, tenant, value in session.execute(query)}


def parse(words: list[str]) -> dict[str, str | None]:
    """``key=value`` words; ``key=`` takes the label away. Raises InputError (or InputErrors)."""
    found: dict[str, str | None] = {}
    problems = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            problems.append(InputError("registry.bad-label", label=word[:120]))
            continue
        problems += _problems(key, value or None)
        found[key] = value or None
    if problems:
        raise combined(problems)
    return found


def _problems(key: str, value: str | None) -> list[InputError]:
    fits = _KEY.match(key) is not None and len(key) <= KEY_MAX_CHARS
    if value is not None:
        fits = fits and _VALUE.match(value) is not None and len(value) <= VALUE_MAX_CHARS
    return [] if fits else [InputError("registry.bad-label", label=f"{key}={value or ''}"[:120])]
