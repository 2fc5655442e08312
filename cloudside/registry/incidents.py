"""Incidents for people: what is open, what was, who has taken note. Opening and closing them is alerts' business."""

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.registry.callers import Caller
from cloudside.registry.tables import Incident, Site


def visible(caller: Caller) -> Select[Incident]:
    """All incidents that exist for the caller, newest first. A tenant sees those whose subject is one of its sites."""
    query = select(Incident).order_by(Incident.id.desc())
    if caller.tenant is None:
        return query
    return query.where(Incident.subject.in_(select(Site.id).where(Site.tenant_id == caller.tenant)))


def still_open(session: Session, caller: Caller) -> list[Incident]:
    """What is open now, newest first."""
    return list(session.scalars(visible(caller).where(Incident.open_key.is_not(None))))


def latest(session: Session, caller: Caller, *, most: int) -> list[Incident]:
    """Open and closed ones, newest first."""
    return list(session.scalars(visible(caller).limit(most)))


def acknowledge(session: Session, caller: Caller, *, incident_id: int, person: str) -> Incident:
    """Note who looks after it. The first one stays. Raises InputError: unknown, or another tenant's."""
    incident = session.scalar(visible(caller).where(Incident.id == incident_id))
    if incident is None:
        raise InputError("registry.unknown-incident", incident=incident_id)
    if incident.acknowledged_by is None:
        incident.acknowledged_by = person[:100]
        session.flush()
    return incident
