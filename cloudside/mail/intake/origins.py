"""What the relay knows of its clients: whose an address or a user name is, and what that one may. Pure data.

``Snapshot`` is the registry's answer at one moment; nothing is read while a client waits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cloudside.errors import RefusedError
from cloudside.mail.intake.places import Address, Network, Places, read
from cloudside.mail.model import Limit

#: Looked up addresses that are remembered: with IPv6 one site could bring more than fit into memory.
_REMEMBERED_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Origin:
    """A site, or a cloud server as ``server/<id>``. ``tenant`` is empty for servers.

    ``limits``: the tenant's and its own, raises applied. ``hold``: why its mail waits, empty: it does not. ``notify``
    gets a copy of each non-delivery report. ``senders`` and ``recipients`` (addresses or ``@domain``, lower case) hold
    for mail known by its address alone; empty: any.
    """

    name: str
    tenant: str = ""
    limits: tuple[Limit, ...] = ()
    hold: str = ""
    revoked: bool = False
    notify: str | None = None
    old_tls: bool = False
    senders: frozenset[str] = frozenset()
    recipients: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name of a site. What is empty restricts nothing; hashes are argon2id; times in seconds since the epoch."""

    user: str
    site_id: str
    password_hash: str = field(repr=False)
    previous_hash: str | None = field(default=None, repr=False)
    previous_until: float = 0.0
    cram_secret: str | None = field(default=None, repr=False)
    sources: tuple[Network, ...] = ()
    senders: frozenset[str] = frozenset()
    recipients: frozenset[str] = frozenset()

    def usable_from(self, address: Address) -> bool:
        """Whether it may be used from there."""
        return not self.sources or any(address in prefix for prefix in self.sources)

    def hashes(self, now: float) -> tuple[str, ...]:
        """Those that a password may fit: the current one, and the one before as long as its grace lasts."""
        if self.previous_hash is not None and now < self.previous_until:
            return (self.password_hash, self.previous_hash)
        return (self.password_hash,)


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Why a tenant's mail is not sent to an address. ``cause`` is bounce, complaint or manual; ``message`` may be "".

    ``since`` and ``expires_at`` in seconds since the epoch; None: it stays until somebody removes it.
    """

    address: str
    cause: str
    reason: str
    message: str
    since: float
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The registry's answer. Devices are known by (tenant, user name or address), suppressions by (tenant, address)."""

    places: Places[Origin]
    origins: Mapping[str, Origin]
    credentials: Mapping[str, Credential]
    device_limits: Mapping[tuple[str, str], Limit] = field(default_factory=dict)
    device_holds: Mapping[tuple[str, str], str] = field(default_factory=dict)
    suppressions: Mapping[tuple[str, str], Suppressed] = field(default_factory=dict)
    #: Addresses that were looked up: each mail asks several times.
    _found: dict[str, Origin | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def find(self, source: str) -> Origin | None:
        """Whose address it is, revoked or not; None: nobody's, or no address."""
        try:
            return self._found[source]
        except KeyError:
            pass
        try:
            found = self.places.find(read(source))
        except ValueError:
            return None
        if len(self._found) >= _REMEMBERED_MAX:
            self._found.clear()
        self._found[source] = found
        return found

    def origin_at(self, source: str) -> Origin:
        """Who sends from this address. Raises RefusedError: nobody we know, or a revoked site."""
        found = self.find(source)
        if found is None:
            raise RefusedError("mail.unknown-source", source=source)
        return _allowed(found)

    def origin_of(self, user: str) -> Origin:
        """Whose user name this is. Raises RefusedError: gone since the login, or a revoked site."""
        credential = self.credentials.get(user)
        if credential is None:
            raise RefusedError("mail.unknown-user", user=user)
        return _allowed(self.origins[credential.site_id])

    def limits(self, origin: Origin, device: str) -> tuple[Limit, ...]:
        """Those of the tenant, the site and the device."""
        own = self.device_limits.get((origin.tenant, device))
        return origin.limits if own is None else (*origin.limits, own)

    def hold(self, origin: Origin, device: str) -> str:
        """Why mail waits; empty: it does not."""
        return origin.hold or self.device_holds.get((origin.tenant, device), "")

    def suppressed(self, tenant: str, address: str) -> Suppressed | None:
        """Why a tenant's mail is not sent to an address; None: it is."""
        return self.suppressions.get((tenant, address.lower()))


def _allowed(origin: Origin) -> Origin:
    if origin.revoked:
        raise RefusedError("mail.site-revoked", site=origin.name)
    return origin
