"""A scripted smarthost: STARTTLS, AUTH, and at each step the answer or the fault that a plan asks for.

It knows what it took: address, digest of the body, Message-ID. Threads and blocking sockets, because a connection that
is cut in the middle of a TLS record is what it is for.
"""

import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from lab.mail_proof.ledger import Take
from lab.mail_proof.traffic import Fate, body_of, digest, fate_of

_MESSAGE_ID = re.compile(rb"^Message-ID:\s*<([^>\s]+)>", re.IGNORECASE | re.MULTILINE)
_REPORTED = re.compile(rb"^Final-Recipient:\s*rfc822;\s*(\S+)", re.IGNORECASE | re.MULTILINE)
#: A connection that says nothing for so long is closed.
_IDLE_S = 120.0
_GARBAGE = b"\xff\xfe\x00\x13 not SMTP at all \x80\r\n"
#: A reply line without an end.
_FLOOD_BYTES = 4 * 1024 * 1024


class Stage(StrEnum):
    """Where in a conversation an answer is due."""

    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    #: Right after the handshake's begin: no answer, only faults.
    HANDSHAKE = "handshake"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    #: After the last byte of a mail, before it is taken.
    END = "end"
    #: It is taken and the client does not know yet: a fault here makes a copy.
    TAKEN = "taken"


class Fault(StrEnum):
    """Instead of an answer."""

    #: Nothing comes, and the connection stays open.
    STALL = "stall"
    #: The connection ends without TLS's farewell.
    DROP = "drop"
    #: The same with a reset.
    RESET = "reset"
    #: Bytes that are no reply.
    GARBAGE = "garbage"
    #: A line that does not end.
    FLOOD = "flood"


#: Asked at each step with the recipient, if there is one yet: None is the usual answer.
Plan = Callable[[Stage, str], "str | Fault | None"]


class Fated:
    """The plan that `traffic.Fate` tells."""

    def __init__(self) -> None:
        self._tries: Counter[str] = Counter()

    def __call__(self, stage: Stage, recipient: str) -> str | Fault | None:
        """See `Plan`."""
        if stage is not Stage.RCPT:
            return None
        fate = fate_of(recipient)
        self._tries[recipient] += 1
        if fate is Fate.GONE:
            return "550 5.1.1 no such mailbox here"
        if fate is Fate.NEVER or (fate is Fate.LATER and self._tries[recipient] <= 1 + len(recipient) % 2):
            return "451 4.7.1 try again later"
        return None


class _EndedError(Exception):
    """This conversation is over."""


class ScriptedSmarthost:
    """Listens on 127.0.0.1 while the context is entered. ``on_take`` is called before the 250 that it precedes."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        *,
        port: int = 0,
        plan: Plan | None = None,
        on_take: Callable[[Take], None] | None = None,
    ) -> None:
        self.plan: Plan = plan or Fated()
        self.on_take = on_take
        self.takes: list[Take] = []
        #: Recipients of mails (not of reports) that it will not be asked about again: taken, or refused for good.
        self.settled: set[str] = set()
        #: When connections were broken off from here, in rising order: a mail taken before may come once more.
        self.broken_off: list[float] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._closed = threading.Event()
        self._open: set[_Conversation] = set()
        self._thread = threading.Thread(target=self._accept, name="smarthost", daemon=True)

    def __enter__(self) -> "ScriptedSmarthost":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        self.hang_up()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_IDLE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conversation = _Conversation(self, connection, self._context, self._closed)
        self._open.add(conversation)
        try:
            conversation.run()
        except (_EndedError, OSError, ValueError):  # ValueError: a file of a socket that was closed meanwhile
            pass
        finally:
            self._open.discard(conversation)
            conversation.close()

    def hang_up(self) -> None:
        """End all connections that are open."""
        self.broken_off.append(time.monotonic())
        for conversation in list(self._open):
            conversation.cut()

    def took(self, recipients: list[str], content: bytes, opened: float) -> None:
        """Note a mail that is about to be answered for."""
        message_id = _MESSAGE_ID.search(content)
        reported = _REPORTED.search(content) if b"multipart/report" in content[:4096] else None
        for recipient in recipients:
            take = Take(
                recipient,
                digest(body_of(content)),
                message_id[1].decode(errors="replace") if message_id else "",
                reported[1].decode(errors="replace") if reported else "",
                time.monotonic(),
                opened,
            )
            if self.on_take is not None:
                self.on_take(take)
            self.takes.append(take)
            self.settle(recipient)

    def settle(self, recipient: str) -> None:
        """It will not be asked about this one again."""
        if fate_of(recipient) is not None:
            self.settled.add(recipient)


class _Conversation:
    """One connection."""

    def __init__(
        self, host: ScriptedSmarthost, connection: socket.socket, context: ssl.SSLContext, closed: threading.Event
    ) -> None:
        self._host = host
        self._raw = connection
        self._context = context
        self._closed = closed
        self._opened = time.monotonic()
        self._socket: socket.socket = connection
        self._file: BinaryIO = connection.makefile("rb")
        self._recipients: list[str] = []

    def run(self) -> None:
        """Until the client or a fault ends it. Raises _EndedError, OSError."""
        self._answer(Stage.GREETING, "220 smarthost.test ESMTP")
        while line := self._file.readline(4096):
            words = line.split()
            self._command(words[0].upper().decode(errors="replace") if words else "", line)

    def cut(self) -> None:
        """End it from another thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket."""
        for thing in (self._file, self._socket, self._raw):
            with suppress(OSError):
                thing.close()

    def _command(self, verb: str, line: bytes) -> None:
        match verb:
            case "EHLO" | "HELO":
                secured = self._socket is not self._raw
                offers = "250-AUTH PLAIN LOGIN\r\n" if secured else "250-STARTTLS\r\n"
                self._answer(Stage.EHLO, f"250-smarthost.test\r\n{offers}250 8BITMIME")
            case "STARTTLS":
                self._answer(Stage.STARTTLS, "220 go ahead")
                self._secure()
            case "AUTH":
                self._authenticate(line)
            case "MAIL":
                self._recipients = []
                self._answer(Stage.MAIL, "250 2.1.0 OK")
            case "RCPT":
                self._recipient(line)
            case "DATA":
                self._data()
            case "RSET" | "NOOP":
                self._send("250 OK")
            case "QUIT":
                self._send("221 bye")
                raise _EndedError
            case _:
                self._send("502 5.5.1 not here")

    def _secure(self) -> None:
        asked = self._host.plan(Stage.HANDSHAKE, "")
        if isinstance(asked, Fault):
            self._fail(asked)
        self._file.close()
        self._socket = self._context.wrap_socket(self._raw, server_side=True, suppress_ragged_eofs=True)
        self._file = self._socket.makefile("rb")

    def _authenticate(self, line: bytes) -> None:
        if line.split()[1].upper() == b"LOGIN":
            given = len(line.split()) > 2
            for prompt in ("334 UGFzc3dvcmQ6",) if given else ("334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"):
                self._send(prompt)
                self._file.readline(4096)
        elif len(line.split()) == 2:
            self._send("334 ")
            self._file.readline(4096)
        self._answer(Stage.AUTH, "235 2.7.0 welcome")

    def _recipient(self, line: bytes) -> None:
        recipient = line.partition(b"<")[2].partition(b">")[0].decode(errors="replace")
        answered = self._answer(Stage.RCPT, "250 2.1.5 OK", recipient)
        if answered.startswith("2"):
            self._recipients.append(recipient)
        elif answered.startswith("5"):
            self._host.settle(recipient)

    def _data(self) -> None:
        if not self._recipients:
            self._send("503 5.5.1 whom for?")
            return
        first = self._recipients[0]
        if not self._answer(Stage.DATA, "354 go on", first).startswith("3"):
            return
        lines = []
        while (line := self._file.readline()) != b".\r\n":
            if not line:
                raise _EndedError
            lines.append(line[1:] if line.startswith(b".") else line)
        asked = self._host.plan(Stage.END, first)
        if asked is None:
            self._host.took(self._recipients, b"".join(lines), self._opened)
            asked = self._host.plan(Stage.TAKEN, first)
        self._give(asked, "250 2.0.0 OK 0100018c-test")
        self._recipients = []

    def _answer(self, stage: Stage, usual: str, recipient: str = "") -> str:
        return self._give(self._host.plan(stage, recipient), usual)

    def _give(self, asked: str | Fault | None, usual: str) -> str:
        if isinstance(asked, Fault):
            self._fail(asked)
        text = asked or usual
        self._send(text)
        return text

    def _send(self, text: str) -> None:
        self._socket.sendall(text.encode() + b"\r\n")

    def _fail(self, fault: Fault) -> None:
        self._host.broken_off.append(time.monotonic())
        match fault:
            case Fault.STALL:
                self._closed.wait(_IDLE_S)
            case Fault.GARBAGE:
                self._socket.sendall(_GARBAGE)
                until = time.monotonic() + 1.0
                while time.monotonic() < until and self._file.readline(4096):
                    self._socket.sendall(_GARBAGE)
            case Fault.FLOOD:
                self._socket.sendall(b"2" * _FLOOD_BYTES)
            case Fault.RESET:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case Fault.DROP:
                pass
        raise _EndedError  # closing the socket below TLS is the rude part
