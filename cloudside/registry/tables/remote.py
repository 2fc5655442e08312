"""What people ask of sites from afar: settings drafts, changes to many sites, log pulls, commands. Crash reports."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from cloudside.registry.tables.base import Table


class SettingsDraft(Table):
    """Settings that somebody prepares for a site; the router hears nothing of it. One a site."""

    __tablename__ = "settings_drafts"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    #: Key -> value; None takes the key out.
    changes: Mapped[dict[str, Any]]
    #: What those keys were when they were drafted; one that is not there was not set.
    base: Mapped[dict[str, Any]]
    author: Mapped[str] = mapped_column(String(100))
    updated_at: Mapped[datetime]


class SettingsChange(Table):
    """One change of settings to many sites, taken in steps by the worker. ``state``: running, paused, stopped (too many
    sites undid it, ``problem`` says so), cancelled, done."""

    __tablename__ = "settings_changes"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    #: Whose sites; None: an operator's change, of any tenant's.
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"), index=True)
    changes: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(String(500))
    author: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(10), index=True)
    #: Sites at once, the least seconds between two such steps, and how many undone ones stop the change.
    stagger: Mapped[int]
    every_s: Mapped[int]
    stop_after: Mapped[int]
    #: A site that does not report until then is given up.
    until: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    problem: Mapped[dict[str, Any] | None]


class SettingsChangeSite(Table):
    """What became of a change at one site. ``state``: waiting, stated, applied, reverted, superseded, withdrawn,
    missed."""

    __tablename__ = "settings_change_sites"
    change_id: Mapped[int] = mapped_column(ForeignKey("settings_changes.id"), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True, index=True)
    state: Mapped[str] = mapped_column(String(12))
    #: The version of the site's settings that it became.
    version: Mapped[int | None]
    stated_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    problem: Mapped[dict[str, Any] | None]


class LogPull(Table):
    """A range of a router's logs that somebody asked for. ``state``: open, done, failed, cancelled, expired."""

    __tablename__ = "log_pulls"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), index=True)
    units: Mapped[list[str]]
    since_at: Mapped[datetime | None]
    until_at: Mapped[datetime | None]
    lines: Mapped[int]
    follow: Mapped[bool]
    max_bytes: Mapped[int]
    mobile_max_bytes: Mapped[int]
    mobile_rate_bytes_s: Mapped[int]
    requested_by: Mapped[str] = mapped_column(String(100))
    requested_at: Mapped[datetime]
    #: Until then the router is asked; one that was away comes to it later.
    expires_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(10), index=True)
    ended_at: Mapped[datetime | None]
    problem: Mapped[dict[str, Any] | None]


class LogUpload(Table):
    """How much of a pull has come. ``sha256`` and ``total_bytes`` are what the router said of the whole; of a followed
    log they are empty and 0."""

    __tablename__ = "log_uploads"
    pull_id: Mapped[str] = mapped_column(ForeignKey("log_pulls.id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    total_bytes: Mapped[int]
    received_bytes: Mapped[int]
    updated_at: Mapped[datetime]
    #: What the router waits for, a message; None: for nothing.
    waits: Mapped[dict[str, Any] | None]
    #: A followed log is wanted until then: whoever looks on moves it.
    wanted_until: Mapped[datetime | None]


class LogPiece(Table):
    """A piece of a pull's gzip, as it came. ``start``: its place, in bytes."""

    __tablename__ = "log_pieces"
    pull_id: Mapped[str] = mapped_column(ForeignKey("log_pulls.id"), primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes]


class SiteCommand(Table):
    """A diagnostic command for a router. ``state``: waiting, done, refused, timed-out, interrupted, expired, failed."""

    __tablename__ = "site_commands"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), index=True)
    name: Mapped[str] = mapped_column(String(40))
    arguments: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(String(500))
    timeout_s: Mapped[int]
    requested_by: Mapped[str] = mapped_column(String(100))
    requested_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(12), index=True)
    answered_at: Mapped[datetime | None]
    #: The program's exit status.
    status: Mapped[int | None]
    output: Mapped[str | None] = mapped_column(Text)
    truncated: Mapped[bool]
    #: When the router began, by its own clock, and how long it took.
    began_at: Mapped[datetime | None]
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    problem: Mapped[dict[str, Any] | None]


class ConsoleAnswer(Table):
    """A response to a challenge at a router's serial console, and who was given it. ``challenge``: as it is said.
    ``used_at``: when the router's report of a login with it arrived."""

    __tablename__ = "console_answers"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), index=True)
    challenge: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(String(500))
    answered_by: Mapped[str] = mapped_column(String(100))
    answered_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class CrashReport(Table):
    """What a router reported of something that ended and should not have. Times are the router's."""

    __tablename__ = "crash_reports"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(12))
    process: Mapped[str] = mapped_column(String(200))
    summary: Mapped[str] = mapped_column(String(200))
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    count: Mapped[int]
    versions: Mapped[dict[str, Any]]
    text: Mapped[str] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(index=True)
