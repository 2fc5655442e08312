"""One-time tokens that let a router be enrolled for a site. Only their SHA-256 is kept.

At most one token a site can be used at any time: a new one withdraws those before.
"""

import hashlib
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloudside.registry import sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import EnrolmentToken


def add(
    session: Session, caller: Caller, *, site_id: str, token: str, author: str, expires_at: datetime, now: datetime
) -> EnrolmentToken:
    """Let ``token`` enrol the site's router, once, until ``expires_at``. Raises InputError: unknown site."""
    withdraw(session, caller, site_id=site_id, now=now)
    made = EnrolmentToken(
        token_sha256=hash_token(token), site_id=site_id, created_at=now, created_by=author[:100], expires_at=expires_at
    )
    session.add(made)
    session.flush()
    return made


def withdraw(session: Session, caller: Caller, *, site_id: str, now: datetime) -> int:
    """Take back what was not used yet; how many could still have been used. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    unused = select(EnrolmentToken).where(
        EnrolmentToken.site_id == site.id, EnrolmentToken.used_at.is_(None), EnrolmentToken.withdrawn_at.is_(None)
    )
    found = list(session.scalars(unused))
    for token in found:
        token.withdrawn_at = now
    session.flush()
    return sum(token.expires_at > now for token in found)


def find(session: Session, token: str) -> EnrolmentToken | None:
    """The record of a token, whatever became of it. Whoever has the token asks: no caller."""
    return session.get(EnrolmentToken, hash_token(token))


def hash_token(token: str) -> str:
    """What the registry keeps. A plain hash suffices: a token is 160 random bits, so it cannot be guessed."""
    return hashlib.sha256(token.encode()).hexdigest()
