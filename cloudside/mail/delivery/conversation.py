"""One connection to the smarthost after its session is set up: mail transactions and nothing else.

A protocol of our own where aiosmtplib's would do, for three reasons: MAIL, RCPT and DATA go out together when the
smarthost offers it (RFC 2920), which halves the waiting; a body is not searched by regular expressions and copied four
times; a large one is streamed from its file.

Invariants: each wait has a deadline; a connection that said anything unasked for, garbled, or late is never used again;
memory is bounded whatever comes.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from cloudside.mail.delivery.replies import GarbledError, Reply, ReplyReader, Stuffer, stuffed

#: A body in a file goes out in pieces of this size; a connection holds at most one, and the transport's buffer.
PIECE_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the smarthost may take, in seconds.

    RFC 5321 4.5.3.2 asks a client of the Internet at large for 5 minutes a command and 3 a data block. A smarthost is
    one that we chose; but the answer to the data keeps its 10 minutes, since who hangs up there sends twice.
    """

    session: float = 60.0
    command: float = 60.0
    block: float = 120.0
    end_of_data: float = 600.0


class BrokenError(Exception):
    """The connection is of no use any more. ``whole``: the whole mail had gone out, so it may have been taken."""

    def __init__(self, words: str, *, whole: bool) -> None:
        super().__init__(words)
        self.whole = whole


@dataclass(frozen=True, slots=True)
class Letter:
    """One mail to one recipient: CRLF text, with the empty line between ``head`` and ``body``. ``size`` in octets."""

    sender: str
    recipient: str
    head: bytes
    body: bytes | Path
    size: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply that decided, and the command that it answered."""

    reply: Reply
    to: str


class Conversation(asyncio.Protocol):
    """Speaks over a transport whose session is set up. One transaction at a time."""

    def __init__(self, transport: asyncio.Transport, extensions: Mapping[str, str], patience: Patience) -> None:
        """Take ``transport`` over. ``extensions``: what EHLO answered, lower-case keywords."""
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._patience = patience
        self._pipelining = "pipelining" in extensions
        self._takes_8bit = "8bitmime" in extensions
        self._takes_size = "size" in extensions
        self._reader = ReplyReader()
        self._replies: deque[Reply] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._expected = 0
        self._paused = False
        self._broken = ""
        self._doing = ""
        self._whole = False
        self._deadline = 0.0
        self._rings_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        """Whether another transaction may begin."""
        return not self._broken and not self._transport.is_closing()

    async def send(self, letter: Letter) -> Answer:
        """One transaction. Raises BrokenError; OSError when the body's file cannot be read, and then it is broken too
        unless nothing was said yet."""
        self._whole = False
        try:
            if not isinstance(letter.body, Path):
                return await self._transact(letter, None)
            with await asyncio.to_thread(letter.body.open, "rb") as file:
                try:
                    return await self._transact(letter, file)
                except OSError as error:
                    self._break(f"{type(error).__name__} while a body was read")
                    raise
        finally:
            self._deadline = 0.0

    def close(self, *, farewell: bool = False) -> None:
        """Hang up without waiting. ``farewell``: with a QUIT, on a connection that is idle."""
        if farewell and self.is_usable:
            self._broken = "closed"
            self._transport.write(b"QUIT\r\n")
            self._transport.close()
        else:
            self._break("closed")
        self._stop_timer()

    async def _transact(self, letter: Letter, file: BinaryIO | None) -> Answer:
        refusal = await self._envelope(letter)
        if refusal is not None:
            if refusal.reply.code == 421:
                self._break(f"421 {refusal.reply.text}")
            elif self.is_usable:
                await self._reset()
            return refusal
        if file is None:
            body = cast(bytes, letter.body)
            text = stuffed(letter.head + b"\r\n" + body)
            self._begin("end of data", self._patience.end_of_data)
            self._write(text + (b".\r\n" if text.endswith(b"\r\n") else b"\r\n.\r\n"), ends=True)
        else:
            await self._stream(letter.head, file)
        reply = await self._reply()
        if reply.code == 421:
            self._break(f"421 {reply.text}")
        return Answer(reply, "data")

    async def _envelope(self, letter: Letter) -> Answer | None:
        """MAIL, RCPT, DATA; the refusal, or None when the text may come."""
        is_8bit = isinstance(letter.body, Path) or not (letter.body.isascii() and letter.head.isascii())
        size = f" SIZE={letter.size}" if self._takes_size else ""
        mime = " BODY=8BITMIME" if self._takes_8bit and is_8bit else ""
        commands = (
            ("mail", f"MAIL FROM:<{letter.sender}>{size}{mime}\r\n"),
            ("rcpt", f"RCPT TO:<{letter.recipient}>\r\n"),
            ("data", "DATA\r\n"),
        )
        if self._pipelining:
            self._begin("MAIL, RCPT, DATA", self._patience.command, replies=3)
            self._write("".join(line for _, line in commands).encode("ascii"))
        refusal: Answer | None = None
        for name, line in commands:
            if not self._pipelining:
                self._begin(name.upper(), self._patience.command)
                self._write(line.encode("ascii"))
            reply = await self._reply()
            good = reply.code == 354 if name == "data" else reply.is_good
            if name == "data" and good and refusal is not None:
                # It refused the recipient and asks for the text all the same: RFC 2920 3.1 wants an empty one.
                self._begin("the end of nothing", self._patience.command)
                self._write(b".\r\n")
                if (await self._reply()).code == 421:
                    self._break("421")
            elif not good and refusal is None:
                refusal = Answer(reply, name)
                if not self._pipelining:
                    break
            if reply.code == 421:
                break
        return refusal

    async def _stream(self, head: bytes, file: BinaryIO) -> None:
        stuffer = Stuffer()
        self._begin("data", self._patience.block)
        self._write(stuffer.feed(head + b"\r\n"))
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            self._write(stuffer.feed(piece))
            self._begin("data", self._patience.block)
            await self._drained()
        self._begin("end of data", self._patience.end_of_data)
        self._write(stuffer.ending, ends=True)

    async def _reset(self) -> None:
        self._begin("RSET", self._patience.command)
        self._write(b"RSET\r\n")
        try:
            reply = await self._reply()
        except BrokenError:
            return
        if not reply.is_good:
            self._break(f"{reply.code} {reply.text}")

    # Waiting.

    def _begin(self, doing: str, within_s: float, *, replies: int = 1) -> None:
        self._doing = doing
        self._expected = replies
        self._deadline = self._loop.time() + within_s
        # One timer for many deadlines: it is set anew only when it would ring too late.
        if self._timer is None or self._rings_at > self._deadline:
            self._stop_timer()
            self._set_timer()

    def _write(self, data: bytes, *, ends: bool = False) -> None:
        if not self.is_usable:
            raise self._error()
        self._whole = self._whole or ends
        self._transport.write(data)

    async def _reply(self) -> Reply:
        while not self._replies:
            if not self.is_usable:
                raise self._error()
            await self._wait()
        self._expected -= 1
        return self._replies.popleft()

    async def _drained(self) -> None:
        while self._paused:
            await self._wait()
            if self._replies:
                # An answer before the end: it does not want the rest. There is no way to stop but hanging up.
                reply = self._replies.popleft()
                self._break(f"{reply.code} {reply.text}")
            if not self.is_usable:
                raise self._error()

    async def _wait(self) -> None:
        self._waiting = self._loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _error(self) -> BrokenError:
        return BrokenError(self._broken or "the smarthost closed the connection", whole=self._whole)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _break(self, words: str) -> None:
        """End it for good; who waits is told."""
        if not self._broken:
            self._broken = words
        self._transport.abort()
        if self._waiting is not None and not self._waiting.done():
            if self._replies:
                self._waiting.set_result(None)
            else:
                self._waiting.set_exception(self._error())

    def _ring(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self._break(f"no answer in time to {self._doing}")

    def _set_timer(self) -> None:
        self._rings_at = self._deadline
        self._timer = self._loop.call_at(self._rings_at, self._ring)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        """Replies, or something else."""
        if self._broken:
            return
        try:
            self._replies.extend(self._reader.feed(data))
        except GarbledError as error:
            self._break(f"garbled answer to {self._doing or 'nothing'}: {error}")
            return
        more = len(self._replies) - self._expected
        if more > 0 or (more == 0 and not self._reader.is_between):
            # The farewell to an idle connection, or answers to what nobody asked: the next one would be mistaken.
            first = self._replies[self._expected] if more > 0 else Reply(0, "")
            self._break(f"unasked answer: {first.code} {first.text}")
        elif self._replies:
            self._wake()

    def eof_received(self) -> bool:
        """The smarthost will say nothing more."""
        self._break(f"the smarthost closed the connection while it was asked for {self._doing or 'nothing'}")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, by whomever."""
        if not self._broken:
            cause = f": {type(exc).__name__}" if exc else ""
            self._break(f"connection lost at {self._doing or 'rest'}{cause}")
        self._stop_timer()
        self._wake()

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """It has room again."""
        self._paused = False
        self._wake()
