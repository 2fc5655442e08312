"""Settings, log pulls, incidents."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from cloudside.registry.tables.base import Table


class Settings(Table):
    """A version of a site's desired settings. ``state``: pending, applied or reverted; ``problem`` says why."""

    __tablename__ = "settings"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    values: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(10), default="pending")
    problem: Mapped[dict[str, Any] | None]
    author: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]


class LogRequest(Table):
    """A log pull: asked for by a person, answered by the router's agent."""

    __tablename__ = "log_requests"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), index=True)
    lines: Mapped[int]
    requested_by: Mapped[str] = mapped_column(String(100))
    requested_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]
    #: gzip of UTF-8 text.
    content: Mapped[bytes | None]


class Incident(Table):
    """A condition that staff should know of, from its opening until it ends. One open incident a (kind, subject)."""

    __tablename__ = "incidents"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(40), index=True)
    #: A site; or ``<site>/<mail user>``, ``server/<id>``, ``tenant/<id>``, the name of a smarthost or a task.
    subject: Mapped[str] = mapped_column(String(140), index=True)
    #: "kind/subject" while open, None afterwards: the unique index is what keeps an alarm from being raised twice.
    open_key: Mapped[str | None] = mapped_column(String(190), unique=True)
    params: Mapped[dict[str, Any]]
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    #: When staff were told last; while it lasts they are told again, at most hourly.
    notified_at: Mapped[datetime | None]
    #: When staff are to be told (again, or that it is over); None: there is nothing new to tell.
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    acknowledged_by: Mapped[str | None] = mapped_column(String(100))
