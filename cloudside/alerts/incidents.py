"""Incidents in the registry: a condition opens one, its end closes it; open_key makes raising idempotent."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cloudside.registry.tables import Incident


def open_incident(session: Session, kind: str, subject: str, params: Mapping[str, Any], now: datetime) -> bool:
    """Open an incident unless the same is open. True: it is new."""
    key = f"{kind}/{subject}"
    if session.scalar(select(Incident.id).where(Incident.open_key == key)) is not None:
        return False
    incident = Incident(kind=kind, subject=subject, open_key=key, params=dict(params), opened_at=now)
    try:
        with session.begin_nested():
            session.add(incident)
    except IntegrityError:
        return False  # another process was faster (possible on PostgreSQL)
    return True


def close_incident(session: Session, kind: str, subject: str, now: datetime) -> bool:
    """The condition ended. False: none was open."""
    incident = session.scalar(select(Incident).where(Incident.open_key == f"{kind}/{subject}"))
    if incident is None:
        return False
    incident.open_key = None
    incident.closed_at = now
    return True


def open_incidents(session: Session, kind: str | None = None) -> list[Incident]:
    """What is open, oldest first."""
    query = select(Incident).where(Incident.open_key.is_not(None)).order_by(Incident.id)
    return list(session.scalars(query if kind is None else query.where(Incident.kind == kind)))


def unnotified(session: Session) -> list[Incident]:
    """Open incidents that staff were not told of yet, oldest first."""
    query = select(Incident).where(Incident.open_key.is_not(None), Incident.notified_at.is_(None)).order_by(Incident.id)
    return list(session.scalars(query))


def mark_notified(session: Session, incident_id: int, now: datetime) -> None:
    """A notice is durable in the mail queue."""
    incident = session.get(Incident, incident_id)
    if incident is not None:
        incident.notified_at = now
