"""Who may send: the last good snapshot of the registry, so that mail is taken while the registry is away.

A site is known by the prefix that its tunnel's addresses come from, a cloud server by its address, a device by its
user name. Nothing is read from the registry while a client waits.
"""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from sqlalchemy import select

from cloudside.errors import RefusedError, UnavailableError
from cloudside.registry.database import Database
from cloudside.registry.tables import Address, Network, Server, Site, SmtpCredential


@dataclass(frozen=True, slots=True)
class Origin:
    """A sender we know. ``limit``: recipients an hour before staff are told; None: the relay's default."""

    name: str
    limit: int | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name of a site, with the argon2id hash of its password."""

    user: str
    site_id: str
    password_hash: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The registry's answer at one moment."""

    prefixes: tuple[tuple[Network, Origin], ...]
    servers: dict[Address, Origin]
    origins: dict[str, Origin]
    credentials: dict[str, Credential]

    def origin_at(self, source: str) -> Origin:
        """Who sends from this address. Raises RefusedError: nobody we know, or a revoked site."""
        address = ip_address(source.partition("%")[0])
        found = self.servers.get(address)
        if found is None:
            # Prefixes of one registry are few enough to walk; a prefix tree comes with ten thousand sites.
            found = next((origin for prefix, origin in self.prefixes if address in prefix), None)
        if found is None:
            raise RefusedError("mail.unknown-source", source=source)
        return self._allowed(found)

    def origin_of(self, user: str) -> Origin:
        """Whose user name this is. Raises RefusedError: gone since the login, or a revoked site."""
        credential = self.credentials.get(user)
        if credential is None:
            raise RefusedError("mail.unknown-user", user=user)
        return self._allowed(self.origins[credential.site_id])

    def _allowed(self, origin: Origin) -> Origin:
        if origin.revoked:
            raise RefusedError("mail.site-revoked", site=origin.name)
        return origin


class Directory:
    """Holds the snapshot; ``refresh`` is called on a clock, from a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The last good one. Raises UnavailableError when there never was one."""
        if self._snapshot is None:
            raise UnavailableError("mail.registry-never-read")
        return self._snapshot

    def refresh(self) -> None:
        """Read anew. Raises KyotenError when the registry cannot be read; the last good snapshot stays."""
        url = self._database.engine.url
        if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
            raise UnavailableError("mail.registry-missing", path=url.database)  # connecting would create an empty one
        with self._database.read() as session:
            sites = session.execute(select(Site.id, Site.overlay, Site.mail_hourly_limit, Site.revoked_at)).all()
            servers = session.execute(select(Server.id, Server.address)).all()
            credentials = session.execute(
                select(SmtpCredential.user, SmtpCredential.site_id, SmtpCredential.password_hash).where(
                    SmtpCredential.revoked_at.is_(None)
                )
            ).all()
        origins = {row.id: Origin(row.id, row.mail_hourly_limit, row.revoked_at is not None) for row in sites}
        at_servers = {row.address: Origin(f"server/{row.id}") for row in servers}
        self._snapshot = Snapshot(
            prefixes=tuple((row.overlay, origins[row.id]) for row in sites),
            servers=at_servers,
            origins=origins | {origin.name: origin for origin in at_servers.values()},
            credentials={row.user: Credential(row.user, row.site_id, row.password_hash) for row in credentials},
        )
