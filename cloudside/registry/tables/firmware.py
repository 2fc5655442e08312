"""Releases that may be rolled out, rollouts, whose turn it is, and what firmware sites say they run."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from cloudside.registry.tables.base import Table


class SiteLabel(Table):
    """A word about a site, ``key=value``, for choosing sites: a ring of a rollout, a pair that excludes each other."""

    __tablename__ = "site_labels"
    __table_args__ = (Index("ix_site_labels_key_value", "key", "value"),)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(String(63))


class FirmwareRelease(Table):
    """A published release for one hardware: what a plan has to know of its document, which devices fetch themselves.

    A yanked one stays: it was installed somewhere.
    """

    __tablename__ = "firmware_releases"
    hardware: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(40), primary_key=True)
    counter: Mapped[int] = mapped_column(BigInteger)
    #: Its name in the repository, such as ``releases/x86-64/1.2.0.json``.
    path: Mapped[str] = mapped_column(String(200))
    #: The oldest counter that it may be installed over.
    minimum_from: Mapped[int] = mapped_column(BigInteger)
    disk_mib: Mapped[int]
    #: What travels when no delta fits.
    full_bytes: Mapped[int] = mapped_column(BigInteger)
    #: Counter of the release it starts from (as text, because JSON) -> bytes that travel.
    deltas: Mapped[dict[str, Any]]
    published_at: Mapped[datetime]
    yanked_at: Mapped[datetime | None]
    yank_reason: Mapped[str] = mapped_column(String(500), default="")


class SiteFirmware(Table):
    """What a site's router last said of its firmware (fleet.protocol.FirmwareState) and modules."""

    __tablename__ = "site_firmware"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    hardware: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(40))
    counter: Mapped[int] = mapped_column(BigInteger)
    slot: Mapped[str] = mapped_column(String(1))
    stage: Mapped[str] = mapped_column(String(20))
    #: The release that the stage is about, its name in the repository; empty: none.
    release: Mapped[str] = mapped_column(String(200))
    rollout: Mapped[str] = mapped_column(String(80))
    progress_pct: Mapped[int]
    bytes_fetched: Mapped[int] = mapped_column(BigInteger)
    #: When the stage began.
    since: Mapped[datetime]
    #: {key, params} of why it waits, refused or went back.
    problem: Mapped[dict[str, Any] | None]
    #: As reported, under "modules".
    modules: Mapped[dict[str, Any]]
    reported_at: Mapped[datetime]


class Rollout(Table):
    """A version on its way to many sites, ring after ring. What is decided stands here, what is seen in its targets.

    ``tenant_id`` None: the operators', over all tenants. ``state`` as fleet.rollouts.machine has it.
    """

    __tablename__ = "rollouts"
    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"), index=True)
    version: Mapped[str] = mapped_column(String(40))
    state: Mapped[str] = mapped_column(String(10), index=True)
    #: Rings, limits and windows, as fleet.rollouts.model writes them.
    plan: Mapped[dict[str, Any]]
    #: The ring whose turn it is, from 0.
    ring: Mapped[int]
    #: When its soak time began; None: it is not soaking.
    soak_since: Mapped[datetime | None]
    #: {key, params} of why it was halted.
    cause: Mapped[dict[str, Any] | None]
    author: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class RolloutTarget(Table):
    """A site of a rollout: its ring, and how far it is (fleet.rollouts.machine.Target)."""

    __tablename__ = "rollout_targets"
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True, index=True)
    ring: Mapped[int]
    state: Mapped[str] = mapped_column(String(10))
    #: The release for its hardware, and the counter that it has then.
    path: Mapped[str] = mapped_column(String(200))
    counter: Mapped[int] = mapped_column(BigInteger)
    #: What it ran when the rollout was made.
    from_version: Mapped[str] = mapped_column(String(40))
    #: Sites with the same word are never at work at once; empty: alone.
    exclusive: Mapped[str] = mapped_column(String(110))
    offered_at: Mapped[datetime | None]
    settled_at: Mapped[datetime | None]
    #: {key, params} of why it failed or declined.
    cause: Mapped[dict[str, Any] | None]


class RolloutProgress(Table):
    """Where a rollout stands, as its last step saw it: for people who watch, and for the next step."""

    __tablename__ = "rollout_progress"
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    at: Mapped[datetime]
    report: Mapped[dict[str, Any]]
