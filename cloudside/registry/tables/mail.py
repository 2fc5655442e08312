"""Who may send mail and how much, whose mail waits, and addresses that nothing is sent to any more."""

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from cloudside.registry.tables.base import Table


class SmtpCredential(Table):
    """A user name that a site's devices authenticate with at the relay; the password as an argon2id hash.

    What is empty restricts nothing: ``sources`` are prefixes that it may be used from, ``senders`` and ``recipients``
    addresses, or domains with a leading ``@``.
    """

    __tablename__ = "smtp_credentials"
    user: Mapped[str] = mapped_column(String(64), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), index=True)
    #: The device that has it; empty: several, or nobody said.
    device: Mapped[str] = mapped_column(String(40), default="")
    password_hash: Mapped[str] = mapped_column(String(200))
    #: The one before the last rotation, good until ``previous_until``.
    previous_hash: Mapped[str | None] = mapped_column(String(200))
    previous_until: Mapped[datetime | None]
    #: For CRAM-MD5 only, which needs the password itself: encrypted with a key that is not in the registry.
    cram_secret: Mapped[str | None] = mapped_column(String(2000))
    sources: Mapped[list[str]] = mapped_column(default=list)
    senders: Mapped[list[str]] = mapped_column(default=list)
    recipients: Mapped[list[str]] = mapped_column(default=list)
    created_at: Mapped[datetime]
    rotated_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class MailProfile(Table):
    """What is special about a site's mail. A site without a row has the relay's defaults."""

    __tablename__ = "mail_profiles"
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    #: Gets a copy of each non-delivery report of the site; None: nobody but the sender.
    notify: Mapped[str | None] = mapped_column(String(254))
    #: Its devices may use TLS 1.0 and 1.1. Reported for as long as it is so.
    old_tls: Mapped[bool] = mapped_column(default=False)
    #: As of credentials, for mail that is known by its source address alone.
    senders: Mapped[list[str]] = mapped_column(default=list)
    recipients: Mapped[list[str]] = mapped_column(default=list)
    #: Longest time without any mail that is normal, in seconds; None: learnt from what it sent, or not watched.
    silent_after_s: Mapped[int | None]


class MailLimit(Table):
    """How many recipients may be sent to before somebody is told, or more. None: no limit.

    ``scope`` is tenant, site (``name`` also ``server/<id>``) or device (``name`` a user name, or an address).
    ``action`` at the limit is notify, hold or refuse. Until ``raised_until`` the limits are ``raised`` times as high.
    """

    __tablename__ = "mail_limits"
    scope: Mapped[str] = mapped_column(String(10), primary_key=True)
    name: Mapped[str] = mapped_column(String(110), primary_key=True)
    #: Whose it is; None: a cloud server's, which is the operators'.
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"), index=True)
    hourly: Mapped[int | None]
    daily: Mapped[int | None]
    action: Mapped[str] = mapped_column(String(10), default="notify")
    raised: Mapped[int] = mapped_column(default=1)
    raised_until: Mapped[datetime | None]


class MailHold(Table):
    """All mail of a tenant, site or device is taken and waits, until somebody releases it."""

    __tablename__ = "mail_holds"
    scope: Mapped[str] = mapped_column(String(10), primary_key=True)
    name: Mapped[str] = mapped_column(String(110), primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"), index=True)
    reason: Mapped[str] = mapped_column(String(500))
    author: Mapped[str] = mapped_column(String(100))
    since: Mapped[datetime]
    #: An operator put it: a tenant's administrator sees it and cannot take it away.
    imposed: Mapped[bool] = mapped_column(default=False)


class Suppression(Table):
    """An address that a tenant's mail is not sent to: it bounced for good, complained, or somebody said so."""

    __tablename__ = "suppressions"
    #: Whose mail; empty: that of cloud servers, which is the operators'.
    tenant_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    #: In lower case.
    address: Mapped[str] = mapped_column(String(254), primary_key=True)
    #: bounce, complaint or manual.
    cause: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(String(500))
    #: The message that brought it here, 16 hexadecimal digits; empty: none.
    message: Mapped[str] = mapped_column(String(16), default="")
    author: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None] = mapped_column(index=True)


class MailDomain(Table):
    """A domain that a site's mail (``origin``; also ``server/<id>``) went to: what is in here is not new any more."""

    __tablename__ = "mail_domains"
    origin: Mapped[str] = mapped_column(String(80), primary_key=True)
    #: In lower case.
    domain: Mapped[str] = mapped_column(String(253), primary_key=True)
    first_seen: Mapped[datetime]
