"""aiosmtpd with its traps closed, and the listener that sites and devices hand their mail to.

Invariants: 250 only after the queue's commit; a disconnect does not undo a commit under way; our own faults are 4xx and
exception text never leaves the process; memory is bounded by the size limit and the number of connections, whatever is
sent; only CRLF.CRLF ends a mail.
"""

import asyncio
import secrets
import ssl
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import structlog
from aiosmtpd.smtp import MISSING, SMTP, AuthResult, Envelope, LoginPassword, Session
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from cloudside.errors import KyotenError, RefusedError, UnavailableError
from cloudside.mail.address import valid
from cloudside.mail.intake.directory import Directory, Origin
from cloudside.mail.intake.gate import Gate, LoginThrottle
from cloudside.mail.message import LINE_MAX_OCTETS, RECEIVED_MAX, Trace, longest_line, normalised, prepare
from cloudside.mail.model import Kind, NewMessage, shown_id
from cloudside.mail.store.queue import Queue
from cloudside.mail.store.sqlite import StorageFullError

log = structlog.get_logger(__name__)

#: RFC 5321 4.5.3.2: five minutes between commands and between blocks of data.
IDLE_S = 300.0
#: A mail may take five minutes, and longer when it still arrives at this rate: a 3G site is slow but not stalled.
MINIMUM_BYTES_PER_S = 64
#: SES takes 50 recipients a message; we send one at a time, so this only bounds what one command sequence can cost.
RECIPIENTS_MAX = 100
#: How many times one command may come on one connection.
COMMANDS_MAX = 2000

REFUSED_REGISTRY = "451 4.3.0 The register of sites cannot be read now, try again later"
REFUSED_FAULT = "451 4.3.0 A fault on our side, try again later"
REFUSED_FULL = "452 4.3.1 Out of storage, try again later"


def status_for(error: Exception) -> str:
    """The reply to a client when ``error`` stopped its command. Tells nothing of the error's text."""
    if isinstance(error, StorageFullError):
        return REFUSED_FULL
    if isinstance(error, RefusedError):
        return "550 5.7.1 You may not send mail here"
    return REFUSED_FAULT


class Server(SMTP):
    """One connection. It is in ``connections`` while it is open, so that the service can close it when it stops."""

    def __init__(self, handler: Any, gate: Gate, connections: set["Server"], **options: Any) -> None:
        # aiosmtpd keeps these limits on the class and lets each EHLO raise them for everyone.
        self.command_size_limits = defaultdict(lambda: 1024)
        self._gate = gate
        self._connections = connections
        super().__init__(handler, ident="ESMTP", timeout=IDLE_S, command_call_limit=COMMANDS_MAX, **options)

    @property
    def source(self) -> str:
        """The client's address."""
        peer = self.session.peer if self.session is not None else None
        return str(peer[0]) if peer else "unknown"

    @property
    def encrypted(self) -> bool:
        """Whether STARTTLS happened."""
        return self._tls_protocol is not None

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.close()

    async def _handle_client(self) -> None:
        place = self.event_handler.place(self.source)
        if not self._gate.enter(place):
            await self.push("421 4.7.0 Too many connections, try again later")
            self.abort()
            return
        self._connections.add(self)
        try:
            await super()._handle_client()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.abort()  # the client went away in the middle of a reply
        finally:
            self._connections.discard(self)
            self._gate.leave(place)

    async def handle_exception(self, error: Exception) -> str:
        if not isinstance(error, KyotenError):
            log.error("smtp-session-fault", source=self.source, error=type(error).__name__, exc_info=error)
        return status_for(error)

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        try:
            found: tuple[str | None, str | None] = super()._getaddr(arg)
        except Exception:  # the stdlib parser has several errors for one malformed address
            return None, None
        return found

    async def smtp_AUTH(self, arg: str) -> None:
        mechanism, space, rest = (arg or "").partition(" ")
        await super().smtp_AUTH(mechanism.upper() + space + rest)  # old devices write it small

    async def smtp_DATA(self, arg: str) -> None:
        if await self.check_helo_needed() or await self.check_auth_needed("DATA"):
            return
        if self.envelope is None or not self.envelope.rcpt_tos:
            await self.push("503 5.5.1 Error: need RCPT command")
            return
        if arg:
            await self.push("501 5.5.4 Syntax: DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        content = await self._receive(self.data_size_limit or 0)
        if content is None:
            status = f"552 5.3.4 The message is larger than {self.data_size_limit} bytes"
        else:
            self.envelope.content = self.envelope.original_content = content
            status = await self._call_handler_hook("DATA")
        self.envelope = self._create_envelope()
        await self.push(status)

    async def _receive(self, limit: int) -> bytes | None:
        """The mail with dots unstuffed; None: larger than allowed (read to its end and thrown away)."""
        began = time.monotonic()
        kept = bytearray()
        received = 0
        at_line_start = True
        too_large = False
        while True:
            try:
                piece = await self._reader.readuntil(b"\r\n")
            except asyncio.LimitOverrunError as overrun:
                piece = await self._reader.read(overrun.consumed)
            if at_line_start and piece == b".\r\n":
                return None if too_large else bytes(kept)
            received += len(piece)
            if at_line_start and piece.startswith(b"."):
                piece = piece[1:]
            at_line_start = piece.endswith(b"\r\n")
            if len(kept) + len(piece) > limit:
                too_large = True
                kept.clear()
            if not too_large:
                kept += piece
            self._reset_timeout()
            if time.monotonic() - began > IDLE_S + received / MINIMUM_BYTES_PER_S:
                await self.push("421 4.4.2 Too slow, closing")
                self.abort()


class SubmissionServer(Server):
    """With STARTTLS and AUTH; a password is verified in a thread, because argon2id takes its time on purpose."""

    def __init__(self, handler: "SubmissionHandler", *args: Any, **options: Any) -> None:
        self._handler = handler
        super().__init__(handler, *args, auth_required=True, auth_require_tls=True, authenticator=_hand_back, **options)

    async def auth_PLAIN(self, _: Any, args: list[str]) -> AuthResult:
        return await self._verify(await super().auth_PLAIN(_, args))

    async def auth_LOGIN(self, _: Any, args: list[str]) -> AuthResult:
        return await self._verify(await super().auth_LOGIN(_, args))

    async def _verify(self, result: AuthResult) -> AuthResult:
        if not isinstance(result.auth_data, LoginPassword):
            return result  # malformed, already answered
        return await self._handler.login(self.source, result.auth_data)


def _hand_back(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: LoginPassword) -> AuthResult:
    """aiosmtpd's authenticator cannot wait; it only passes on what the client said."""
    return AuthResult(success=False, handled=False, auth_data=data)


@dataclass(frozen=True, slots=True)
class Reception:
    """What a handler needs to take mail."""

    queue: Queue
    directory: Directory
    host_name: str
    domain: str
    accepted: Callable[[], None]


class SiteHandler:
    """Takes mail of sites and cloud servers known by their tunnel address."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    def origin(self, server: Server, session: Session) -> Origin:
        """Who sends. Raises RefusedError, UnavailableError (no snapshot)."""
        return self._reception.directory.snapshot.origin_at(server.source)

    def place(self, source: str) -> str:
        """Whose connections are counted together: a site's, whichever of its addresses they come from."""
        try:
            return self._reception.directory.snapshot.origin_at(source).name
        except (RefusedError, UnavailableError):
            return source

    async def handle_MAIL(
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        try:
            origin = self.origin(server, session)
        except UnavailableError:
            return REFUSED_REGISTRY
        except RefusedError as refusal:
            log.warning("mail-refused", reason=refusal.key, source=server.source)
            return "550 5.7.1 This address belongs to no site that may send mail here"
        if address != "<>" and not valid(address):
            return "553 5.1.7 Malformed sender address"
        try:
            self._reception.queue.require_space(_declared_size(options))
        except StorageFullError:
            log.error("mail-disk-full", origin=origin.name)
            return REFUSED_FULL
        return MISSING

    async def handle_RCPT(
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        if not valid(address):
            return "553 5.1.3 Malformed recipient address"
        if len(envelope.rcpt_tos) >= RECIPIENTS_MAX:
            return f"452 4.5.3 More than {RECIPIENTS_MAX} recipients, send the rest separately"
        return MISSING

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:
        origin = self.origin(server, session)  # again: it may have been revoked on this connection
        content = normalised(_content(envelope))
        if longest_line(content) > LINE_MAX_OCTETS:
            return f"554 5.6.0 A line is longer than {LINE_MAX_OCTETS} octets (RFC 5321 4.5.3.1.6)"
        now = time.time()
        new_id = secrets.randbits(63)
        sender = "" if envelope.mail_from == "<>" else str(envelope.mail_from)
        trace = Trace(
            helo=str(session.host_name),
            source=server.source,
            host_name=self._reception.host_name,
            protocol=("ESMTP" if session.extended_smtp else "SMTP") + ("SA" if server.encrypted else ""),
            message_id=shown_id(new_id),
            at=datetime.fromtimestamp(now, UTC),
        )
        prepared = prepare(content, sender=sender, trace=trace, domain=self._reception.domain)
        if prepared.received_count > RECEIVED_MAX:
            log.warning("mail-loop", origin=origin.name, received=prepared.received_count)
            return "554 5.4.6 This mail has been through too many servers: it loops"
        new = NewMessage(
            id=new_id,
            kind=Kind.MAIL,
            origin=origin.name,
            source=server.source,
            sender=sender,
            recipients=tuple(dict.fromkeys(envelope.rcpt_tos)),
            subject=prepared.subject,
            content=prepared.content,
            accepted_at=now,
            automatic=prepared.automatic,
        )
        self._reception.queue.require_space(len(new.content))
        # A client that leaves cancels us, not the commit: it will send again, and twice is better than never.
        commit = asyncio.ensure_future(self._commit(new))
        await asyncio.shield(commit)
        return f"250 2.0.0 Queued as {shown_id(new_id)}"

    async def _commit(self, new: NewMessage) -> None:
        try:
            receipt = await self._reception.queue.accept(new)
        except UnavailableError as error:
            log.error("mail-not-queued", message=shown_id(new.id), origin=new.origin, reason=error.key)
            raise
        self._reception.accepted()
        log.info(
            "mail-accepted",
            message=shown_id(new.id),
            origin=new.origin,
            source=new.source,
            recipients=len(new.recipients),
            size=len(new.content),
            hour_count=receipt.hour_count,
        )


class SubmissionHandler(SiteHandler):
    """Takes mail of devices that know a user name and password."""

    def __init__(self, reception: Reception, throttle: LoginThrottle, *, failure_delay_s: float = 1.0) -> None:
        super().__init__(reception)
        self._throttle = throttle
        self._failure_delay_s = failure_delay_s
        self._hasher = PasswordHasher()
        # argon2id takes 64 MiB each: two at a time bound memory and leave the machine to the mail.
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="mail-login")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def origin(self, server: Server, session: Session) -> Origin:
        return self._reception.directory.snapshot.origin_of(str(session.auth_data))

    async def login(self, source: str, given: LoginPassword) -> AuthResult:
        """Check a user name and password; failures are slow, and too many of them are not checked at all."""
        if self._throttle.blocked(source, time.monotonic()):
            log.warning("login-throttled", source=source)
            return AuthResult(success=False, handled=False, message="454 4.7.0 Too many failed logins, try again later")
        user = given.login.decode("utf-8", errors="replace")
        try:
            credential = self._reception.directory.snapshot.credentials.get(user)
        except UnavailableError:
            return AuthResult(success=False, handled=False, message="454 4.3.0 Users cannot be checked now, try later")
        stored = credential.password_hash if credential is not None else _nobodys_hash()
        loop = asyncio.get_running_loop()
        matches = await loop.run_in_executor(self._threads, self._matches, stored, given.password)
        if credential is None or not matches:
            self._throttle.failed(source, time.monotonic())
            log.warning("login-failed", source=source, user=user[:64])
            await asyncio.sleep(self._failure_delay_s)
            return AuthResult(success=False, handled=False)
        self._throttle.succeeded(source)
        return AuthResult(success=True, auth_data=user)

    def _matches(self, stored: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False


@cache
def _nobodys_hash() -> str:
    """Unknown users are checked against this, so that the time of an answer does not tell which exist."""
    return PasswordHasher().hash(secrets.token_hex(16))


def starttls_context(certificate: str, key: str) -> ssl.SSLContext:
    """TLS for the submission listener; TLS 1.2 and newer. Raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def _content(envelope: Envelope) -> bytes:
    content = envelope.content
    return content if isinstance(content, bytes) else b""


def _declared_size(options: list[str]) -> int:
    for option in options:
        name, _, value = option.partition("=")
        if name.upper() == "SIZE" and value.isdigit():
            return int(value[:12])
    return 0
