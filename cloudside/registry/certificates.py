"""Certificates that were issued, and the newest revocation list of each authority. The service's own: no caller.

Authorities are named ``root``, ``cloud`` and ``tenant-<tenant>``. What a certificate says is pki's
business; this is its record.
"""

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloudside.registry.addresses import Network
from cloudside.registry.tables import Certificate, RevocationList, Site


def record(session: Session, certificate: Certificate) -> None:
    """Remember an issued certificate; serials are unique."""
    session.add(certificate)
    session.flush()


def current(session: Session, *, authority: str, kind: str, subject: str) -> Certificate | None:
    """The newest certificate of a subject that is not revoked; it may have expired."""
    query = (
        select(Certificate)
        .where(
            Certificate.authority == authority,
            Certificate.kind == kind,
            Certificate.subject == subject,
            Certificate.revoked_at.is_(None),
        )
        .order_by(Certificate.not_before.desc())
        .limit(1)
    )
    return session.scalar(query)


def by_serial(session: Session, serial: str) -> Certificate | None:
    """The certificate with this serial (lower-case hexadecimal, no leading zeros)."""
    return session.get(Certificate, serial)


def counting(session: Session, *, authority: str, kind: str, subject: str, now: datetime) -> list[Certificate]:
    """A subject's certificates that are neither revoked nor expired, oldest first."""
    query = select(Certificate).where(
        Certificate.authority == authority,
        Certificate.kind == kind,
        Certificate.subject == subject,
        Certificate.revoked_at.is_(None),
        Certificate.not_after > now,
    )
    return list(session.scalars(query.order_by(Certificate.not_before, Certificate.serial)))


def standing(session: Session, *, authority: str, kind: str, subject: str) -> list[Certificate]:
    """A subject's certificates that are not revoked, newest first; they may have expired."""
    query = select(Certificate).where(
        Certificate.authority == authority,
        Certificate.kind == kind,
        Certificate.subject == subject,
        Certificate.revoked_at.is_(None),
    )
    return list(session.scalars(query.order_by(Certificate.not_before.desc(), Certificate.serial)))


def issued_since(session: Session, *, authority: str, kind: str, subject: str, since: datetime) -> int:
    """How many certificates of a subject begin after ``since``, revoked ones too."""
    query = select(func.count()).where(
        Certificate.authority == authority,
        Certificate.kind == kind,
        Certificate.subject == subject,
        Certificate.not_before > since,
    )
    return session.scalar(query) or 0


def still_certified(session: Session, *, now: datetime) -> list[tuple[str, Network]]:
    """Prefixes that a site's certificate still speaks for though the site has moved: (site, prefix)."""
    query = select(Certificate.subject, Certificate.overlay).where(
        Certificate.kind == "site", Certificate.revoked_at.is_(None), Certificate.not_after > now
    )
    left = query.join(Site, Site.id == Certificate.subject).where(Certificate.overlay != Site.overlay)
    return [(subject, overlay) for subject, overlay in session.execute(left) if overlay is not None]


def revoke_all(session: Session, *, authority: str, kind: str, subject: str, now: datetime) -> list[Certificate]:
    """Mark every certificate of a subject revoked that is not yet; returns those."""
    query = select(Certificate).where(
        Certificate.authority == authority,
        Certificate.kind == kind,
        Certificate.subject == subject,
        Certificate.revoked_at.is_(None),
    )
    found = list(session.scalars(query))
    for certificate in found:
        certificate.revoked_at = now
    session.flush()
    return found


def last_revocations(session: Session, *, kind: str, now: datetime, backdated: timedelta) -> dict[str, datetime]:
    """When a certificate of each subject was last taken away, of those that have not expired.

    One that was put aside because the subject had a newer one already took nothing away: a renewed certificate's
    predecessor, that of a prefix which was left. ``backdated``: how long before its making a certificate begins.
    """
    of_kind = select(Certificate).where(Certificate.kind == kind, Certificate.not_after >= now)
    revoked = list(session.scalars(of_kind.where(Certificate.revoked_at.is_not(None))))
    if not revoked:
        return {}
    begun = (
        select(Certificate.subject, func.min(Certificate.not_before))
        .where(Certificate.kind == kind, Certificate.not_after >= now, Certificate.revoked_at.is_(None))
        .where(Certificate.subject.in_({one.subject for one in revoked}))
        .group_by(Certificate.subject)
    )
    # Certificates tell whole seconds: one made in the same second came after, in place of what was revoked.
    made = {subject: begins + backdated + timedelta(seconds=1) for subject, begins in session.execute(begun)}
    found: dict[str, datetime] = {}
    for one in revoked:
        at = one.revoked_at
        if at is not None and not (one.subject in made and made[one.subject] <= at):
            found[one.subject] = max(at, found.get(one.subject, at))
    return found


def revoked_by(session: Session, *, authority: str, now: datetime) -> list[Certificate]:
    """An authority's revoked certificates that have not expired: what its next list says (RFC 5280 5.1.2.6)."""
    query = select(Certificate).where(
        Certificate.authority == authority, Certificate.revoked_at.is_not(None), Certificate.not_after >= now
    )
    return list(session.scalars(query.order_by(Certificate.serial)))


def revocation_list(session: Session, authority: str) -> RevocationList | None:
    """The newest revocation list of an authority."""
    return session.get(RevocationList, authority)


def revocation_lists(session: Session) -> list[RevocationList]:
    """The newest revocation list of every authority, by authority: what a gateway loads into charon."""
    return list(session.scalars(select(RevocationList).order_by(RevocationList.authority)))


def keep_revocation_list(
    session: Session, *, authority: str, number: int, der: bytes, next_update: datetime
) -> RevocationList:
    """Replace an authority's revocation list. Numbers only grow (RFC 5280 5.2.3): a smaller one is our bug."""
    kept = session.get(RevocationList, authority) or RevocationList(authority=authority, number=0)
    if number <= kept.number:
        raise ValueError(f"revocation list {number} of {authority} after {kept.number}")
    kept.number = number
    kept.der = der
    kept.next_update = next_update
    session.add(kept)
    session.flush()
    return kept
