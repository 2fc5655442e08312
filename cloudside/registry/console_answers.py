"""Responses that were given for logins at routers' serial consoles: to whom, why, and whether they were used."""

import secrets
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloudside.registry import sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import ConsoleAnswer

REASON_MAX_CHARS = 500


def add(
    session: Session, caller: Caller, *, site_id: str, challenge: str, reason: str, person: str, now: datetime
) -> ConsoleAnswer:
    """Note that somebody is given the response to a challenge. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    given = ConsoleAnswer(
        id=secrets.token_hex(16),
        site_id=site.id,
        challenge=challenge,
        reason=reason.strip()[:REASON_MAX_CHARS],
        answered_by=person[:100],
        answered_at=now,
        used_at=None,
    )
    session.add(given)
    session.flush()
    return given


def mark_used(session: Session, caller: Caller, *, site_id: str, challenge: str, now: datetime) -> ConsoleAnswer | None:
    """The site's router reports a login with this challenge: who was given its response last; None: nobody was.

    Raises InputError: unknown site.
    """
    site = sites.get(session, caller, site_id)
    query = select(ConsoleAnswer).where(ConsoleAnswer.site_id == site.id, ConsoleAnswer.challenge == challenge)
    given = session.scalar(query.order_by(ConsoleAnswer.answered_at.desc()).limit(1))
    if given is not None and given.used_at is None:
        given.used_at = now
        session.flush()
    return given
