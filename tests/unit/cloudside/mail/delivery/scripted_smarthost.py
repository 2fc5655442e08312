"""A smarthost that follows a script, and a queue in memory, for the tests of delivery."""

import asyncio
import base64
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from cloudside.mail.delivery.conversation import Patience
from cloudside.mail.delivery.smarthost import Smarthost
from cloudside.mail.model import Attempt, Kind, NewMessage, Original, State

#: Quick, and long enough for a busy machine to answer within.
QUICK = Patience(session=0.6, command=0.4, block=0.4, end_of_data=0.4)


class Do(Enum):
    """What a script can say instead of an answer."""

    STALL = "says nothing more"
    CLOSE = "closes"
    RUDE = "closes TCP without a word of TLS"


#: Answers that are none.
GARBAGE = b"\x00\xff\x16\x03 what?\r\n"
ENDLESS = b"250-" + b"x" * 20_000
MANY_LINES = b"250-more\r\n" * 1000


class _Over(Exception):
    pass


@dataclass
class Taken:
    sender: str
    recipient: str
    content: bytes
    parameters: str = ""


@dataclass
class Scripted:
    """``script``: by stage (connect, ehlo, starttls, login, mail, rcpt, data, body, end, rset) what it answers, used up
    one after the other; then all is well."""

    context: ssl.SSLContext | None = None
    script: dict[str, list[str | bytes | Do]] = field(default_factory=dict)
    extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME", "SIZE 30000000")
    password: str = "smarthost-password"
    taken: list[Taken] = field(default_factory=list)
    #: Called with each recipient when its mail is there; its answer replaces the good one.
    on_mail: object = None
    sessions: int = 0
    open_now: int = 0
    most_open: int = 0
    logins: int = 0
    quits: int = 0
    connected_at: list[float] = field(default_factory=list)
    resets: int = 0
    port: int = 0
    delay_s: float = 0.0
    #: Whether texts are kept.
    keeps: bool = True
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Scripted"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 17)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._ended.set()
            server.close()
            await asyncio.sleep(0.01)

    def smarthost(self, tmp_path: Path, authority: Path | None) -> Smarthost:
        """How the relay is told about it."""
        credentials = tmp_path / "smarthost.credentials"
        credentials.write_text(f"AKIAEXAMPLE\n{self.password}\n")
        tls = self.context is not None
        return Smarthost("127.0.0.1", self.port, credentials if tls else None, authority if tls else None, tls)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        self.connected_at.append(time.monotonic())
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            await self._session(reader, writer)
        except (_Over, ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self.open_now -= 1
            with suppress(Exception):
                writer.close()

    async def _say(self, writer: asyncio.StreamWriter, stage: str, good: str) -> str:
        answers = self.script.get(stage)
        answer = answers.pop(0) if answers else good
        if answer is Do.STALL:
            await self._ended.wait()
            writer.transport.abort()
            raise _Over
        if answer is Do.CLOSE:
            writer.close()
            raise _Over
        if answer is Do.RUDE:
            writer.transport.abort()
            raise _Over
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
            return "garbage"
        writer.write("".join(f"{line}\r\n" for line in answer.split("\n")).encode())
        await writer.drain()
        if answer.startswith("421"):
            writer.close()
            raise _Over
        return answer

    def _hello(self) -> str:
        lines = ["250-scripted", *(f"250-{extension}" for extension in self.extensions)]
        if self.context is not None:
            lines += ["250-STARTTLS", "250-AUTH PLAIN LOGIN"]
        return "\n".join([*lines, "250 Ok"])

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._say(writer, "connect", "220 scripted ESMTP")
        sender = recipient = parameters = ""
        while line := (await reader.readline()).decode().strip():
            word = line.split()[0].upper()
            if word == "EHLO":
                await self._say(writer, "ehlo", self._hello())
            elif word == "STARTTLS":
                if (await self._say(writer, "starttls", "220 go")).startswith("220"):
                    await writer.start_tls(self.context)
            elif word == "AUTH":
                self.logins += 1
                given = base64.b64decode(line.split()[2]).decode().split("\0")[2]
                good = "235 welcome" if given == self.password else "535 Authentication Credentials Invalid"
                await self._say(writer, "login", good)
            elif word == "MAIL":
                sender, _, parameters = line[len("MAIL FROM:<") :].partition(">")
                recipient = ""
                if not (await self._say(writer, "mail", "250 Ok")).startswith("250"):
                    sender = ""
            elif word == "RCPT":
                good = "250 Ok" if sender else "503 no MAIL"
                if (await self._say(writer, "rcpt", good)).startswith("250"):
                    recipient = line[len("RCPT TO:<") :].partition(">")[0]
            elif word == "DATA":
                good = "354 go on" if recipient else "503 no RCPT"
                if (await self._say(writer, "data", good)).startswith("354"):
                    await self._data(reader, writer, Taken(sender, recipient, b"", parameters.strip()))
                sender = recipient = ""
            elif word == "RSET":
                self.resets += 1
                await self._say(writer, "rset", "250 Ok")
            elif word == "QUIT":
                self.quits += 1
                writer.write(b"221 Bye\r\n")
                return
            else:
                writer.write(b"500 what?\r\n")

    async def _data(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mail: Taken) -> None:
        if self.script.get("body"):
            await reader.readexactly(100)
            await self._say(writer, "body", "")
        text = b""
        while True:
            line = await reader.readuntil(b"\r\n")
            if line == b".\r\n":
                break
            if self.keeps:
                text += line[1:] if line.startswith(b".") else line
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if not mail.recipient:
            await self._say(writer, "empty", "554 no valid recipients")
            return
        number = len(self.taken) + 1
        good = self.on_mail(mail.recipient) if callable(self.on_mail) else ""
        if (await self._say(writer, "end", good or f"250 Ok 0100-ses-{number}")).startswith("250"):
            mail.content = text
            self.taken.append(mail)


def attempt(
    number: int = 1,
    *,
    recipient: str = "ops@customer.test",
    body: bytes | Path = b"Pump 3 stopped.\r\n",
    head: bytes = b"From: plc@site.test\r\nTo: ops@customer.test\r\nSubject: Fault 7\r\n",
    urgent: bool = False,
    kind: Kind = Kind.MAIL,
    attempts: int = 0,
    accepted_at: float | None = None,
    automatic: bool = False,
) -> Attempt:
    """One recipient's mail."""
    at = time.time() if accepted_at is None else accepted_at
    original = Original(number, kind, "acme", "tokyo-1", "plc", "plc@site.test", automatic, at, "Fault 7", head)
    size = len(head) + 2 + (body.stat().st_size if isinstance(body, Path) else len(body))
    return Attempt(original, 0, recipient, attempts, urgent, head, body, size)


@dataclass
class Desk:
    """The queue as delivery sees it, in memory: what is due goes out, notices and urgent mail first."""

    queued: list[tuple[float, Attempt]] = field(default_factory=list)
    sending: dict[int, Attempt] = field(default_factory=dict)
    delivered_ones: dict[int, tuple[str, str]] = field(default_factory=dict)
    failed: dict[int, tuple[State, str, bool, str]] = field(default_factory=dict)
    reports: list[NewMessage] = field(default_factory=list)
    postponed: list[tuple[int, float, str, bool]] = field(default_factory=list)
    claims: list[tuple[int, bool]] = field(default_factory=list)
    #: Raised by the next calls that write.
    faults: list[Exception] = field(default_factory=list)

    def put(self, *attempts: Attempt) -> None:
        self.queued += [(0.0, one) for one in attempts]

    async def claim(self, now: float, limit: int, *, urgent_only: bool = False) -> list[Attempt]:
        self.claims.append((limit, urgent_only))
        due = [
            (at, one)
            for at, one in self.queued
            if at <= now and (not urgent_only or one.urgent or one.original.kind is Kind.NOTICE)
        ]
        due.sort(key=lambda pair: (pair[1].original.kind is not Kind.NOTICE, not pair[1].urgent, pair[0]))
        claimed = due[:limit]
        for pair in claimed:
            self.queued.remove(pair)
            assert pair[1].original.id not in self.sending
            self.sending[pair[1].original.id] = pair[1]
        return [one for _, one in claimed]

    async def delivered(self, attempt: Attempt, now: float, reply: str, remote_id: str = "") -> None:
        self._maybe_fail()
        del self.sending[attempt.original.id]
        self.delivered_ones[attempt.original.id] = (reply, remote_id)

    async def postpone(self, attempt: Attempt, now: float, *, until: float, reply: str, counted: bool) -> None:
        self._maybe_fail()
        del self.sending[attempt.original.id]
        self.postponed.append((attempt.original.id, until - now, reply, counted))
        self.queued.append((until, replace(attempt, attempts=attempt.attempts + counted)))

    async def fail(self, message_id, index, state, now, reply, reports, *, permanent, suppress="", feedback="") -> bool:
        self._maybe_fail()
        del self.sending[message_id]
        self.failed[message_id] = (state, reply, permanent, suppress)
        self.reports += reports
        return True

    def _maybe_fail(self) -> None:
        if self.faults:
            raise self.faults.pop(0)

    async def settled(self, count: int, timeout_s: float = 5.0) -> None:
        """Until so many recipients are finished."""
        async with asyncio.timeout(timeout_s):
            while len(self.delivered_ones) + len(self.failed) < count:
                await asyncio.sleep(0.005)
