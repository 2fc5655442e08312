"""Sessions with the smarthost: TLS, login, and the connections that are kept for the next mail.

aiosmtplib sets a session up (EHLO, STARTTLS, AUTH); then our own Conversation takes its transport over.
"""

import asyncio
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import aiosmtplib

from cloudside.errors import ConfigurationError
from cloudside.mail.delivery.conversation import Conversation, Patience
from cloudside.mail.delivery.outcome import Outcome, Stage, Verdict, judge
from cloudside.mail.message import one_line

#: SES closes a connection that is idle for some seconds; an older one is not trusted with a mail.
IDLE_MAX_S = 5.0
REPLY_MAX_CHARS = 400


@dataclass(frozen=True, slots=True)
class Smarthost:
    """Where mail goes out. ``credentials`` names a file with two lines, user name and password; read at each login, so
    a rotated password needs no restart. ``tls`` false: neither TLS nor login, and no credentials."""

    host: str
    port: int
    credentials: Path | None
    authority: Path | None
    tls: bool = True


class NoSessionError(Exception):
    """No session with the smarthost came about; ``outcome`` says what that means for the queue."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reply)
        self.outcome = outcome


class Sessions:
    """Opens sessions and keeps those that are idle, newest first out. Use from one event loop."""

    def __init__(self, smarthost: Smarthost, host_name: str, patience: Patience | None = None) -> None:
        self._smarthost = smarthost
        self._host_name = host_name
        self._patience = patience or Patience()
        self._idle: list[tuple[Conversation, float]] = []
        #: Sessions that exist, idle ones too.
        self.count = 0

    def kept(self) -> Conversation | None:
        """A session that is idle and as far as we know alive."""
        while self._idle:
            conversation, since = self._idle.pop()
            if conversation.is_usable and time.monotonic() - since < IDLE_MAX_S:
                return conversation
            self._end(conversation)
        return None

    def keep(self, conversation: Conversation) -> None:
        """Give a session back, of which any use may be left or none."""
        if conversation.is_usable:
            self._idle.append((conversation, time.monotonic()))
        else:
            self._end(conversation)

    def drop(self, conversation: Conversation) -> None:
        """Give a session back that must not be used again."""
        conversation.close()
        self._end(conversation)

    def tidy(self) -> None:
        """Close, politely, what has been idle for long."""
        oldest = time.monotonic() - IDLE_MAX_S
        while self._idle and (self._idle[0][1] < oldest or not self._idle[0][0].is_usable):
            self._end(self._idle.pop(0)[0])

    def close(self) -> None:
        """Close all that is idle."""
        for conversation, _ in self._idle:
            self._end(conversation)
        self._idle.clear()

    async def open(self) -> Conversation:
        """A new session. Raises NoSessionError."""
        try:
            async with asyncio.timeout(self._patience.session):
                conversation = await self._set_up()
        except aiosmtplib.SMTPResponseException as error:
            verdict = judge(error.code, error.message, Stage.SESSION)
            raise NoSessionError(Outcome(verdict, words_of(error))) from None
        except ConfigurationError as error:
            raise NoSessionError(Outcome(Verdict.REFUSED, error.key)) from None
        except TimeoutError as error:
            words = words_of(error) if isinstance(error, aiosmtplib.SMTPException) else "no session in time"
            raise NoSessionError(Outcome(Verdict.UNREACHABLE, words)) from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise NoSessionError(Outcome(_fault(error), words_of(error))) from None
        self.count += 1
        return conversation

    async def _set_up(self) -> Conversation:
        smarthost = self._smarthost
        login, context = await asyncio.to_thread(_prepared, smarthost)
        client = aiosmtplib.SMTP(
            hostname=smarthost.host,
            port=smarthost.port,
            local_hostname=self._host_name,
            timeout=self._patience.session,
            start_tls=smarthost.tls,
            tls_context=context,
        )
        try:
            await client.connect()
            try:
                await client.ehlo()
            except aiosmtplib.SMTPHeloError:
                if not client.is_connected:
                    raise
                await client.helo()
            if login is not None:
                await _log_in(client, *login)
            # aiosmtplib names the base class; a TCP or TLS transport is a full one.
            return Conversation(
                cast(asyncio.Transport, client.transport), dict(client.esmtp_extensions), self._patience
            )
        except BaseException:
            client.close()
            raise

    def _end(self, conversation: Conversation) -> None:
        conversation.close(farewell=True)
        self.count -= 1


def read_credentials(path: Path) -> tuple[str, str]:
    """User name and password from a file of two lines. Raises ConfigurationError, which does not tell them."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError("mail.credentials-unreadable", path=str(path)) from None
    if len(lines) < 2 or not lines[0].strip() or not lines[1].strip():
        raise ConfigurationError("mail.credentials-malformed", path=str(path))
    return lines[0].strip(), lines[1].strip()


def words_of(error: Exception) -> str:
    """An error of the library's or the system's in one line."""
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return one_line(f"{error.code} {error.message}", REPLY_MAX_CHARS)
    return one_line(f"{type(error).__name__}: {error}", REPLY_MAX_CHARS)


def _prepared(smarthost: Smarthost) -> tuple[tuple[str, str] | None, ssl.SSLContext | None]:
    """Login and TLS context, from files. Raises ConfigurationError, OSError, ssl.SSLError."""
    if not smarthost.tls:
        return None, None
    context = ssl.create_default_context(cafile=str(smarthost.authority) if smarthost.authority else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if smarthost.credentials is None:
        raise ConfigurationError("mail.no-credentials")
    return read_credentials(smarthost.credentials), context


async def _log_in(client: aiosmtplib.SMTP, user: str, password: str) -> None:
    """AUTH with the first method that both know. One try: a wrong password is not right by another method."""
    if "plain" in client.server_auth_methods:
        await client.auth_plain(user, password)
    elif "login" in client.server_auth_methods:
        await client.auth_login(user, password)
    else:
        raise aiosmtplib.SMTPNotSupported("the smarthost offers neither AUTH PLAIN nor AUTH LOGIN")


def _fault(error: Exception) -> Verdict:
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return Verdict.REFUSED  # their certificate: waiting will not mend it
    # aiosmtplib says with its plain base class that STARTTLS or AUTH is not offered.
    if type(error) in (aiosmtplib.SMTPException, aiosmtplib.SMTPNotSupported):
        return Verdict.REFUSED
    return Verdict.UNREACHABLE
