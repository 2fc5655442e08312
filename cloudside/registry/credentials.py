"""SMTP credentials of sites and their devices: a user name and password, where it is good for and for how long.

The relay keeps the password as an argon2id hash. Only a device that can do nothing but CRAM-MD5 has it kept so that it
can be read, encrypted by a function of the caller's: nothing here reads a key.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, combined
from cloudside.registry import devices, mail_patterns, sites
from cloudside.registry.addresses import overlaps, read_prefix
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Site, SmtpCredential

#: Column width; controllers from ten years ago rarely take more.
USER_MAX_CHARS = 64
#: A shorter password is a spam relay in waiting.
PASSWORD_MIN_CHARS = 12
#: Prefixes that one credential may be bound to.
SOURCES_MAX = 100
#: A password that was stolen must not be good for ever.
LONGEST_GRACE = timedelta(days=90)

#: OWASP's second recommendation for argon2id: a controller that logs in for each mail costs the relay 20 ms and 19 MiB.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

#: Makes of a password what only the relay can read.
Encrypt = Callable[[str], str]


def issue(
    session: Session,
    caller: Caller,
    *,
    site_id: str,
    user: str,
    password: str,
    now: datetime,
    device: str = "",
    sources: Sequence[str] = (),
    senders: Sequence[str] = (),
    recipients: Sequence[str] = (),
    encrypt: Encrypt | None = None,
) -> SmtpCredential:
    """Give a site a user name and password. User names are unique in the service and never given out twice.

    ``sources`` are prefixes that it may be used from, ``senders`` and ``recipients`` addresses or ``@domain``; empty:
    any. With ``encrypt`` it can be used with CRAM-MD5 too.
    Raises InputError (or InputErrors): unknown site or device; user name used, empty, an IP address or not printable
    ASCII; password too short; bad prefix or address.
    """
    site = sites.get(session, caller, site_id)
    if device:
        devices.get(session, caller, site.id, device)
    problems = [*_user_problems(session, user), *_password_problems(user, password)]
    places = _prefixes(site, sources, problems)
    allowed = mail_patterns.patterns(senders, problems)
    reached = mail_patterns.patterns(recipients, problems)
    if problems:
        raise combined(problems)
    credential = SmtpCredential(
        user=user,
        site_id=site.id,
        device=device,
        password_hash=_HASHER.hash(password),
        cram_secret=None if encrypt is None else encrypt(password),
        sources=places,
        senders=allowed,
        recipients=reached,
        created_at=now,
        revoked_at=None,
    )
    session.add(credential)
    session.flush()
    return credential


def rotate(
    session: Session,
    caller: Caller,
    *,
    user: str,
    password: str,
    now: datetime,
    good_until: datetime | None = None,
    encrypt: Encrypt | None = None,
) -> SmtpCredential:
    """Give a credential another password. The one before is good until ``good_until``; None: no longer, from now on.

    CRAM-MD5 knows the new one only, and only with ``encrypt``.
    Raises InputError (or InputErrors): unknown, another tenant's or revoked; password too short or the same as before;
    ``good_until`` over or more than LONGEST_GRACE away.
    """
    credential = standing(session, caller, user)
    problems = _password_problems(user, password)
    if not problems and proves_password(credential, password):
        problems.append(InputError("registry.same-password", user=user))
    if good_until is not None and not now < good_until <= now + LONGEST_GRACE:
        shown = good_until.isoformat(timespec="minutes")
        problems.append(InputError("registry.bad-password-grace", until=shown, days=LONGEST_GRACE.days))
    if problems:
        raise combined(problems)
    credential.previous_hash = None if good_until is None else credential.password_hash
    credential.previous_until = good_until
    credential.password_hash = _HASHER.hash(password)
    credential.cram_secret = None if encrypt is None else encrypt(password)
    credential.rotated_at = now
    session.flush()
    return credential


def restrict(
    session: Session,
    caller: Caller,
    *,
    user: str,
    device: str | None = None,
    sources: Sequence[str] | None = None,
    senders: Sequence[str] | None = None,
    recipients: Sequence[str] | None = None,
) -> SmtpCredential:
    """Change where a credential is good for; None leaves, empty takes the restriction away.

    Raises InputError (or InputErrors) and changes nothing then: unknown, another tenant's or revoked; unknown device;
    bad prefix or address.
    """
    credential = standing(session, caller, user)
    site = sites.get(session, caller, credential.site_id)
    if device:
        devices.get(session, caller, site.id, device)
    problems: list[InputError] = []
    places = credential.sources if sources is None else _prefixes(site, sources, problems)
    allowed = credential.senders if senders is None else mail_patterns.patterns(senders, problems)
    reached = credential.recipients if recipients is None else mail_patterns.patterns(recipients, problems)
    if problems:
        raise combined(problems)
    credential.device = credential.device if device is None else device
    credential.sources, credential.senders, credential.recipients = places, allowed, reached
    session.flush()
    return credential


def revoke(session: Session, caller: Caller, *, user: str, now: datetime) -> SmtpCredential:
    """End a credential for good. Raises InputError: unknown, or another tenant's."""
    credential = get(session, caller, user)
    if credential.revoked_at is None:
        credential.revoked_at = now
        session.flush()
    return credential


def every(session: Session, caller: Caller) -> list[SmtpCredential]:
    """All credentials that exist for the caller by user name, revoked ones too."""
    return list(session.scalars(visible(caller)))


def of_site(session: Session, caller: Caller, site_id: str) -> list[SmtpCredential]:
    """A site's credentials by user name, revoked ones too. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    return list(session.scalars(visible(caller).where(SmtpCredential.site_id == site.id)))


def get(session: Session, caller: Caller, user: str) -> SmtpCredential:
    """One credential, revoked or not. Raises InputError: unknown, or another tenant's."""
    credential = session.scalar(visible(caller).where(SmtpCredential.user == user))
    if credential is None:
        raise InputError("registry.unknown-smtp-user", user=user[:USER_MAX_CHARS])
    return credential


def standing(session: Session, caller: Caller, user: str) -> SmtpCredential:
    """One that is not revoked. Raises InputError: unknown, another tenant's or revoked."""
    credential = get(session, caller, user)
    if credential.revoked_at is not None:
        raise InputError("registry.smtp-user-revoked", user=user)
    return credential


def usable(session: Session, caller: Caller, user: str) -> SmtpCredential | None:
    """The credential behind a user name, unless it or its site is revoked."""
    query = visible(caller).where(
        SmtpCredential.user == user, SmtpCredential.revoked_at.is_(None), Site.revoked_at.is_(None)
    )
    return session.scalar(query)


def proves_password(credential: SmtpCredential, password: str) -> bool:
    """Whether the password is the credential's. Takes tens of milliseconds on purpose: call it off the event loop."""
    try:
        return _HASHER.verify(credential.password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def visible(caller: Caller) -> Select[SmtpCredential]:
    """All credentials that exist for the caller, by user name."""
    query = select(SmtpCredential).join(Site, Site.id == SmtpCredential.site_id).order_by(SmtpCredential.user)
    return query if caller.tenant is None else query.where(Site.tenant_id == caller.tenant)


def _user_problems(session: Session, user: str) -> list[InputError]:
    if not user or len(user) > USER_MAX_CHARS or not user.isascii() or not user.isprintable() or _is_address(user):
        return [InputError("registry.bad-smtp-user", user=user[:USER_MAX_CHARS], longest=USER_MAX_CHARS)]
    if session.get(SmtpCredential, user) is not None:
        return [InputError("registry.smtp-user-exists", user=user)]
    return []


def _is_address(user: str) -> bool:
    # Limits and holds know a device by its user name or by its address.
    try:
        ip_address(user.strip())
    except ValueError:
        return False
    return True


def _password_problems(user: str, password: str) -> list[InputError]:
    if len(password) >= PASSWORD_MIN_CHARS:
        return []
    return [InputError("registry.short-password", user=user[:USER_MAX_CHARS], least=PASSWORD_MIN_CHARS)]


def _prefixes(site: Site, sources: Sequence[str], problems: list[InputError]) -> list[str]:
    """Prefixes in CIDR form, each once, in the order given."""
    found: dict[str, None] = {}
    for text in sources:
        try:
            prefix = read_prefix(text)
        except InputError as problem:
            problems.append(problem)
            continue
        if overlaps(prefix, site.lan) and not overlaps(prefix, site.overlay):
            # The relay never sees it: the router has mapped it to the overlay.
            overlay = str(site.overlay)
            problems.append(InputError("registry.smtp-source-lan", prefix=str(prefix), site=site.id, overlay=overlay))
        found[str(prefix)] = None
    if len(found) > SOURCES_MAX:
        problems.append(InputError("registry.many-smtp-sources", count=len(found), most=SOURCES_MAX))
    return list(found)
