"""Certificates, revocation, enrolment."""

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from cloudside.registry.tables.base import Network, Table


class Certificate(Table):
    """A certificate that was issued. ``serial`` is hexadecimal: it does not fit a database integer."""

    __tablename__ = "certificates"
    serial: Mapped[str] = mapped_column(String(40), primary_key=True)
    authority: Mapped[str] = mapped_column(String(63), index=True)
    #: root, authority, site, gateway or server.
    kind: Mapped[str] = mapped_column(String(20))
    subject: Mapped[str] = mapped_column(String(63), index=True)
    #: The prefix that a site's certificate speaks for; None: another kind, or older than this column.
    overlay: Mapped[Network | None]
    pem: Mapped[str]
    not_before: Mapped[datetime]
    not_after: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class RevocationList(Table):
    """The newest CRL of each authority, DER."""

    __tablename__ = "revocation_lists"
    authority: Mapped[str] = mapped_column(String(63), primary_key=True)
    number: Mapped[int]
    der: Mapped[bytes]
    next_update: Mapped[datetime]


class EnrolmentToken(Table):
    """Lets one router be enrolled for a site, once. The token itself is never stored, only its SHA-256."""

    __tablename__ = "enrolment_tokens"
    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), index=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(100))
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    #: Taken back before it was used.
    withdrawn_at: Mapped[datetime | None]
    #: The certificate that was issued for it: a try whose answer got lost on the way is answered with it again.
    certificate_serial: Mapped[str | None] = mapped_column(String(40))
