"""What is special about a site's mail: who hears of failures, old TLS, which addresses, when silence is news."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError, combined
from cloudside.registry import mail_patterns, sites
from cloudside.registry.callers import Caller
from cloudside.registry.tables import MailProfile, Site

#: Shorter is the pause between two mails, longer is never.
SILENCE_MIN = timedelta(minutes=10)
SILENCE_MAX = timedelta(days=400)


def visible(caller: Caller) -> Select[MailProfile]:
    """All profiles that exist for the caller, by site."""
    query = select(MailProfile).join(Site, Site.id == MailProfile.site_id).order_by(MailProfile.site_id)
    return query if caller.tenant is None else query.where(Site.tenant_id == caller.tenant)


def every(session: Session, caller: Caller) -> list[MailProfile]:
    """The profiles of all sites that have anything special, by site."""
    return list(session.scalars(visible(caller)))


def get(session: Session, caller: Caller, site_id: str) -> MailProfile:
    """A site's profile; one that nothing was stated of has the defaults. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    row = session.scalar(visible(caller).where(MailProfile.site_id == site.id))
    if row is not None:
        return row
    return MailProfile(site_id=site.id, notify=None, old_tls=False, senders=[], recipients=[], silent_after_s=None)


def change(
    session: Session,
    caller: Caller,
    *,
    site_id: str,
    notify: str | None = None,
    old_tls: bool | None = None,
    senders: Sequence[str] | None = None,
    recipients: Sequence[str] | None = None,
    silent_after: timedelta | None = None,
) -> MailProfile:
    """Change what is given, leave the rest. Empty (``""``, ``()``, no time) takes back what was stated.

    Raises InputError (or InputErrors) and changes nothing then: unknown site, bad address, bad time.
    """
    row = get(session, caller, site_id)
    problems: list[InputError] = []
    told = row.notify
    if notify is not None:
        told = _notify(notify, problems)
    allowed = row.senders if senders is None else mail_patterns.patterns(senders, problems)
    reached = row.recipients if recipients is None else mail_patterns.patterns(recipients, problems)
    silent_after_s = row.silent_after_s
    if silent_after is not None:
        silent_after_s = round(silent_after.total_seconds()) or None
        if silent_after and not SILENCE_MIN <= silent_after <= SILENCE_MAX:
            least, most = round(SILENCE_MIN.total_seconds() / 60), SILENCE_MAX.days
            problems.append(InputError("registry.bad-mail-silence", least=least, most=most))
    if problems:
        raise combined(problems)
    row.notify, row.senders, row.recipients, row.silent_after_s = told, allowed, reached, silent_after_s
    row.old_tls = row.old_tls if old_tls is None else old_tls
    session.add(row)
    session.flush()
    return row


def _notify(text: str, problems: list[InputError]) -> str | None:
    try:
        return mail_patterns.address(text) if text.strip() else None
    except InputError as problem:
        problems.append(problem)
        return None
