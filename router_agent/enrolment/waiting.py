"""Keys that were made and not yet answered with a certificate: ``<state>/request/`` and ``<state>/renewal/``.

Written before anything is sent, so a try that was cut off, after the cloud had signed but before the answer was here,
is repeated with the same key and gets the same certificate.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from linux.files import flush_directory, write_durably
from router_agent.enrolment import request
from router_agent.errors import StateError

#: For the first certificate, which brings an SSH host key with it, and for the next ones.
FIRST = "request"
NEXT = "renewal"

KEY = "site.key"
HOST_KEY = "ssh_host_ed25519_key"
HOST_KEY_PUBLIC = "ssh_host_ed25519_key.pub"
_SITE = "site"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The key that waits for its certificate. ``members`` as they will stand in the identity."""

    site: str
    members: dict[str, bytes] = field(repr=False)

    @property
    def key_pem(self) -> bytes:
        """The private key."""
        return self.members[KEY]

    @property
    def csr_pem(self) -> bytes:
        """The request to send for it."""
        return request.request_for(self.site, self.key_pem)

    @property
    def host_key(self) -> str:
        """The SSH host key's public line."""
        return self.members[HOST_KEY_PUBLIC].decode().strip()


def find(state: Path, kind: str) -> Waiting | None:
    """What waits; None: nothing does, or it is damaged."""
    place = state / kind
    names = (KEY, HOST_KEY, HOST_KEY_PUBLIC) if kind == FIRST else (KEY,)
    try:
        found = Waiting((place / _SITE).read_text().strip(), {name: (place / name).read_bytes() for name in names})
        _ = found.csr_pem
    except (OSError, ValueError):
        return None
    return found


def prepare(state: Path, kind: str, site: str) -> Waiting:
    """The key that waits for this site; a new one when none does. Raises StateError: nothing may be sent then."""
    found = find(state, kind)
    if found is not None and found.site == site:
        return found
    members = {KEY: request.make_request(site).key_pem}
    if kind == FIRST:
        host_key = request.make_host_key(site)
        members |= {HOST_KEY: host_key.private, HOST_KEY_PUBLIC: f"{host_key.public}\n".encode()}
    fresh = state / f"{kind}.new"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        for name, content in ({_SITE: site.encode()} | members).items():
            write_durably(fresh / name, content)
        shutil.rmtree(state / kind, ignore_errors=True)
        fresh.rename(state / kind)
        flush_directory(state)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise _unwritable(state, error) from error
    return Waiting(site, members)


def forget(state: Path, kind: str) -> None:
    """Nothing waits any more. What cannot be removed is replaced at the next request."""
    shutil.rmtree(state / kind, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> StateError:
    return StateError("agent.state-unwritable", path=str(path), reason=error.strerror or type(error).__name__)
