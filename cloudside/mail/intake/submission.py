"""Mail of devices that know a user name and password: AUTH under TLS, on ports 587 and 465.

PLAIN and LOGIN, and CRAM-MD5 where the configuration offers it and a credential was made for it. A failure is slow, is
counted by address and by user name, and does not tell which user names exist.
"""

import asyncio
import binascii
import hmac
import secrets
import time
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import ClassVar

import structlog
from aiosmtpd.smtp import Session

from cloudside.errors import UnavailableError
from cloudside.mail.intake import cram
from cloudside.mail.intake.doors import Door
from cloudside.mail.intake.gate import LoginThrottle
from cloudside.mail.intake.handlers import Client, Reception, SiteHandler
from cloudside.mail.intake.listener import Server
from cloudside.mail.intake.origins import Credential
from cloudside.mail.intake.passwords import Passwords, TooBusyError
from cloudside.mail.intake.places import read
from cloudside.mail.intake.wire import AUTH_LINE_MAX_BYTES
from cloudside.mail.watch.sightings import Sight

log = structlog.get_logger(__name__)

GOOD = "235 2.7.0 Authentication successful"
WRONG = "535 5.7.8 User name or password is wrong"
FOREIGN = "535 5.7.8 This user name may not be used from this address"
THROTTLED = "454 4.7.0 Too many failed logins, try again later"
BUSY = "454 4.7.0 Too many logins at once, try again later"
NO_REGISTRY = "454 4.3.0 Users cannot be checked now, try again later"
_USER_MAX_CHARS = 64


@dataclass(frozen=True, slots=True)
class Proof:
    """What a client says to be believed: a password, or the digest of a challenge."""

    user: str
    password: bytes = b""
    challenge: bytes = b""
    digest: str = ""


class _Malformed(Exception):
    """What the client said is no answer."""


class SubmissionHandler(SiteHandler):
    """Takes mail of devices that logged in. ``seal`` opens the passwords for CRAM-MD5; None: it is not offered."""

    def __init__(
        self,
        reception: Reception,
        throttle: LoginThrottle,
        *,
        passwords: Passwords | None = None,
        seal: cram.Seal | None = None,
        failure_delay_s: float = 1.0,
    ) -> None:
        super().__init__(reception)
        self.throttle = throttle
        self.seal = seal
        self._passwords = passwords or Passwords()
        self._failure_delay_s = failure_delay_s

    def close(self) -> None:
        """End the threads."""
        self._passwords.close()

    def client(self, server: Server, session: Session) -> Client:
        user = str(session.auth_data)
        snapshot = self._reception.directory.snapshot
        origin = snapshot.origin_of(user)
        credential = snapshot.credentials[user]
        return Client(origin, user, credential.senders, credential.recipients)

    async def login(self, source: str, proof: Proof) -> str:
        """The reply to a login."""
        user = proof.user[:_USER_MAX_CHARS]
        if self.throttle.blocked(source, time.monotonic(), user):
            log.warning("login-throttled", source=source, user=user)
            self._reception.metrics.login("throttled")
            return THROTTLED
        try:
            credential = self._reception.directory.snapshot.credentials.get(proof.user)
        except UnavailableError:
            return NO_REGISTRY
        try:
            proved = await self._proved(credential, proof)
        except TooBusyError:
            log.warning("login-throttled", source=source, user=user)
            self._reception.metrics.login("throttled")
            return BUSY
        if credential is None or not proved:
            self.throttle.failed(source, time.monotonic(), user)
            return await self._failed(Sight.LOGIN_FAILED, user, source, WRONG)
        if not credential.usable_from(read(source)):
            return await self._failed(Sight.FOREIGN_SOURCE, user, source, FOREIGN)
        self.throttle.succeeded(source, user)
        self._reception.metrics.login("good")
        return GOOD

    async def _failed(self, sight: Sight, user: str, source: str, reply: str) -> str:
        log.warning(sight.value, source=source, user=user)
        self._reception.metrics.login("failed")
        self._reception.sightings.saw(sight, user, source, time.time())
        await asyncio.sleep(self._failure_delay_s)
        return reply

    async def _proved(self, credential: Credential | None, proof: Proof) -> bool:
        if not proof.challenge:
            hashes = credential.hashes(time.time()) if credential is not None else ()
            return await self._passwords.fits(hashes, proof.password)
        sealed = credential.cram_secret if credential is not None else None
        password = self.seal.decrypt(sealed) if self.seal is not None and sealed is not None else None
        # An unknown user takes as long as one without such a secret.
        wanted = cram.digest(secrets.token_bytes(16) if password is None else password, proof.challenge)
        return hmac.compare_digest(wanted, proof.digest) and password is not None


class SubmissionServer(Server):
    """A connection on which somebody has to log in first."""

    login_required: ClassVar[bool] = True

    def __init__(self, door: Door) -> None:
        super().__init__(door)
        handler = self.event_handler
        if not isinstance(handler, SubmissionHandler):
            raise TypeError("a door with logins needs a SubmissionHandler")
        self._submission: SubmissionHandler = handler

    def offered(self) -> list[str]:
        if not self.encrypted:
            return []
        return ["AUTH LOGIN PLAIN" + (" CRAM-MD5" if self._submission.seal is not None else "")]

    async def smtp_AUTH(self, arg: str | None) -> None:
        """RFC 4954 section 4."""
        if await self.check_helo_needed("EHLO"):
            return
        words = (arg or "").split()
        if not self.encrypted:
            await self.push("538 5.7.11 Encryption required for requested authentication mechanism")
        elif self.session.authenticated:
            await self.push("503 5.5.1 Logged in already")
        elif self.envelope.mail_from:
            await self.push("503 5.5.1 Not in the middle of a mail")
        elif not 1 <= len(words) <= 2:
            await self.push("501 5.5.4 Syntax: AUTH mechanism [initial-response]")
        else:
            await self._log_in(words[0].upper(), words[1] if len(words) == 2 else None)

    async def _log_in(self, mechanism: str, initial: str | None) -> None:
        try:
            if mechanism == "PLAIN":
                proof = await self._plain(initial)
            elif mechanism == "LOGIN":
                proof = await self._login(initial)
            elif mechanism == "CRAM-MD5" and self._submission.seal is not None and initial is None:
                proof = await self._cram_md5()
            else:
                raise _Malformed("504 5.5.4 Unrecognized authentication type")
        except _Malformed as malformed:
            await self.push(str(malformed))
            return
        reply = await self._submission.login(self.source, proof)
        if reply == GOOD:
            self.session.authenticated = True
            self.session.auth_data = proof.user
        await self.push(reply)

    async def _plain(self, initial: str | None) -> Proof:
        """RFC 4616: authorisation identity, which is ignored, user name, password."""
        said = await self._ask(b"") if initial is None else _decoded(initial)
        parts = said.split(b"\0")
        if len(parts) != 3:
            raise _Malformed("501 5.5.2 Not an answer for PLAIN")
        return Proof(_user(parts[1]), parts[2])

    async def _login(self, initial: str | None) -> Proof:
        """draft-murchison-sasl-login: user name, then password."""
        user = await self._ask(b"User Name\0") if initial is None else _decoded(initial)
        return Proof(_user(user), await self._ask(b"Password\0"))

    async def _cram_md5(self) -> Proof:
        """RFC 2195: the user name and the keyed digest of a challenge that never comes again."""
        challenge = f"<{secrets.token_hex(12)}.{time.time_ns()}@{self.hostname}>".encode()
        user, space, digest = (await self._ask(challenge)).rpartition(b" ")
        if not space:
            raise _Malformed("501 5.5.2 Not an answer for CRAM-MD5")
        return Proof(_user(user), challenge=challenge, digest=digest.decode("ascii", errors="replace").lower())

    async def _ask(self, challenge: bytes) -> bytes:
        await self.push(b"334 " + b64encode(challenge))
        line = await self._line(AUTH_LINE_MAX_BYTES)
        self._active_at = self.loop.time()
        if line.strip() == b"*":
            raise _Malformed("501 5.7.0 Authentication given up")
        return _decoded(line.strip().decode("ascii", errors="replace"))


def _decoded(text: str) -> bytes:
    if text == "=":  # RFC 4954 section 4: an empty initial response
        return b""
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _Malformed("501 5.5.2 Not Base64") from None


def _user(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")
