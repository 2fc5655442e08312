"""SMTP credentials of sites: made by an operator, kept as an argon2id hash, checked by the relay."""

from datetime import datetime

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, combined
from cloudside.registry import sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Site, SmtpCredential

#: Column width; controllers from ten years ago rarely take more.
USER_MAX_CHARS = 64
#: A shorter password is a spam relay in waiting.
PASSWORD_MIN_CHARS = 12

#: OWASP's second recommendation for argon2id: a controller that logs in for each mail costs the relay 20 ms and 19 MiB.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def issue(session: Session, caller: Caller, *, site_id: str, user: str, password: str, now: datetime) -> SmtpCredential:
    """Give a site a user name and password. User names are unique in the service and never given out twice.

    Raises InputError (or InputErrors): unknown site; user name used, empty or not printable ASCII; password too short.
    """
    site = sites.get(session, caller, site_id)
    problems: list[InputError] = []
    if not user or len(user) > USER_MAX_CHARS or not user.isascii() or not user.isprintable():
        problems.append(InputError("registry.bad-smtp-user", user=user[:USER_MAX_CHARS], longest=USER_MAX_CHARS))
    elif session.get(SmtpCredential, user) is not None:
        problems.append(InputError("registry.smtp-user-exists", user=user))
    if len(password) < PASSWORD_MIN_CHARS:
        problems.append(InputError("registry.short-password", user=user[:USER_MAX_CHARS], least=PASSWORD_MIN_CHARS))
    if problems:
        raise combined(problems)
    credential = SmtpCredential(
        user=user, site_id=site.id, password_hash=_HASHER.hash(password), created_at=now, revoked_at=None
    )
    session.add(credential)
    session.flush()
    return credential


def of_site(session: Session, caller: Caller, site_id: str) -> list[SmtpCredential]:
    """A site's credentials by user name, revoked ones too. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    return list(session.scalars(_visible(caller).where(SmtpCredential.site_id == site.id)))


def usable(session: Session, caller: Caller, user: str) -> SmtpCredential | None:
    """The credential behind a user name, unless it or its site is revoked."""
    query = _visible(caller).where(
        SmtpCredential.user == user, SmtpCredential.revoked_at.is_(None), Site.revoked_at.is_(None)
    )
    return session.scalar(query)


def proves_password(credential: SmtpCredential, password: str) -> bool:
    """Whether the password is the credential's. Takes tens of milliseconds on purpose: call it off the event loop."""
    try:
        return _HASHER.verify(credential.password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def revoke(session: Session, caller: Caller, *, user: str, now: datetime) -> SmtpCredential:
    """End a credential for good. Raises InputError: unknown, or another tenant's."""
    credential = session.scalar(_visible(caller).where(SmtpCredential.user == user))
    if credential is None:
        raise InputError("registry.unknown-smtp-user", user=user[:USER_MAX_CHARS])
    if credential.revoked_at is None:
        credential.revoked_at = now
        session.flush()
    return credential


def _visible(caller: Caller) -> Select[SmtpCredential]:
    query = select(SmtpCredential).join(Site, Site.id == SmtpCredential.site_id).order_by(SmtpCredential.user)
    return query if caller.tenant is None else query.where(Site.tenant_id == caller.tenant)
