"""Incidents in the registry: a condition opens one, its end closes it; open_key makes raising idempotent.

Each change that people should hear of sets ``due_at``. Whoever tells it takes it for a while first (``take``), so that
two relays do not both tell it, and one that dies meanwhile leaves it due.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cloudside.registry.tables import Incident


def open_incident(session: Session, kind: str, subject: str, params: Mapping[str, Any], now: datetime) -> bool:
    """Open an incident unless the same is open. True: it is new."""
    key = _key(kind, subject)
    if session.scalar(select(Incident.id).where(Incident.open_key == key)) is not None:
        return False
    incident = Incident(kind=kind, subject=subject, open_key=key, params=dict(params), opened_at=now, due_at=now)
    try:
        with session.begin_nested():
            session.add(incident)
    except IntegrityError:
        return False  # another process was faster (possible on PostgreSQL)
    return True


def is_open(session: Session, kind: str, subject: str) -> bool:
    """Whether the same is open."""
    return _open(session, kind, subject) is not None


def close_incident(session: Session, kind: str, subject: str, now: datetime) -> bool:
    """The condition ended. False: none was open. Its end is told only if its beginning was."""
    incident = _open(session, kind, subject)
    if incident is None:
        return False
    incident.open_key = None
    incident.closed_at = now
    incident.due_at = now if incident.notified_at is not None else None
    return True


def tell_again(session: Session, kind: str, subject: str, params: Mapping[str, Any], now: datetime) -> bool:
    """It lasts, or has become worse: people hear of it again, with these parameters. False: none is open."""
    incident = _open(session, kind, subject)
    if incident is None:
        return False
    incident.params = dict(params)
    incident.due_at = now
    return True


def open_incidents(session: Session, kind: str | None = None) -> list[Incident]:
    """What is open, oldest first."""
    query = select(Incident).where(Incident.open_key.is_not(None)).order_by(Incident.id)
    return list(session.scalars(query if kind is None else query.where(Incident.kind == kind)))


def due(session: Session, now: datetime) -> list[Incident]:
    """What staff are to be told now, oldest first: open ones, and ends."""
    return list(session.scalars(select(Incident).where(Incident.due_at <= now).order_by(Incident.id)))


def take(session: Session, now: datetime, *, for_s: float, most: int) -> list[Incident]:
    """Some of what is due, as it then stands; nobody else gets it within ``for_s`` seconds. One writing session."""
    taken = due(session, now)[:most]
    for incident in taken:
        incident.due_at = now + timedelta(seconds=for_s)
    return taken


def mark_notified(session: Session, incident: Incident, now: datetime) -> None:
    """Staff were told of ``incident`` as it was taken. What became of it meanwhile stays due."""
    current = session.get(Incident, incident.id)
    if current is None:
        return
    if current.due_at == incident.due_at:
        current.due_at = None
    current.notified_at = now
    if current.closed_at is not None and incident.closed_at is None:
        current.due_at = current.closed_at  # it ended while it was told


def _open(session: Session, kind: str, subject: str) -> Incident | None:
    return session.scalar(select(Incident).where(Incident.open_key == _key(kind, subject)))


def _key(kind: str, subject: str) -> str:
    return f"{kind}/{subject}"
