"""The relay's memory, all its processes together: ``idle CONNECTIONS`` and ``attack CONNECTIONS MIB``. Prints JSON.

idle: connections that said EHLO and then nothing, from 16 addresses; a mail must still get through between them.
attack: connections at once that send lines and bodies without CRLF, floods of header fields, mails that never end,
commands without end. Looked at twenty times a second; after it a mail must get through.
"""

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import uvloop

from tests.bench.mail_latency import send_one
from tests.bench.mail_world import RECIPIENT, RELAY, SENDER, Relay, Sink, allow_many_files, place

#: Connections that are opened at once, and seconds until memory is looked at.
AT_ONCE, REST_S = 200, 3.0
PIECE = 64 * 1024
#: How long one kind of attack goes on at most.
ATTACK_S = 40.0
#: A mail that never ends: how much of it comes quickly.
UNFINISHED_BYTES = 9_000_000
DRIP_S = 6.0


async def _open_idle(number: int) -> asyncio.StreamWriter:
    local = (f"127.1.{number % 16}.1", 0)
    reader, writer = await asyncio.open_connection(str(RELAY), 25, local_addr=local, limit=4096)
    if not (await reader.readline()).startswith(b"220"):
        raise SystemExit(f"connection {number} was refused")
    writer.write(b"EHLO plc\r\n")
    while (await reader.readline())[3:4] == b"-":
        pass
    return writer


async def hold(relay: Relay, count: int) -> dict[str, float]:
    """Open ``count`` connections; the relay's memory while they are open."""
    before = relay.rss_mib()
    writers: list[asyncio.StreamWriter] = []
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        writers += await asyncio.gather(*(_open_idle(number) for number in numbers))
    await asyncio.sleep(REST_S)
    took_ms = await send_one(RELAY)
    found = relay.rss_mib()
    if any(writer.transport.is_closing() for writer in writers):
        raise SystemExit("the relay closed idle connections")
    for writer in writers:
        writer.transport.abort()
    return {"idle_connections": count, "idle_10000_rss_mib": found, "rss_at_start_mib": before, "idle_mail_ms": took_ms}


def _talk(stream: socket.socket, *commands: bytes) -> None:
    stream.recv(4096)
    for command in commands:
        stream.sendall(command + b"\r\n")
        stream.recv(4096)


def _to_data(stream: socket.socket) -> None:
    _talk(stream, b"EHLO x", f"MAIL FROM:<{SENDER}>".encode(), f"RCPT TO:<{RECIPIENT}>".encode(), b"DATA")


def _pour(stream: socket.socket, piece: bytes, total: int) -> None:
    for _ in range(total // len(piece)):
        stream.sendall(piece)


def body_without_line_ends(stream: socket.socket, total: int) -> None:
    """DATA, then one endless line."""
    _to_data(stream)
    _pour(stream, b"x" * PIECE, total)


def command_without_line_end(stream: socket.socket, total: int) -> None:
    """A command that never ends."""
    stream.recv(4096)
    _pour(stream, b"EHLO " + b"x" * (PIECE - 5), total)


def header_flood(stream: socket.socket, total: int) -> None:
    """Header fields without end."""
    _to_data(stream)
    _pour(stream, b"X-A: b\r\n" * (PIECE // 8), total)


def folded_header(stream: socket.socket, total: int) -> None:
    """One header field of endless folds."""
    _to_data(stream)
    stream.sendall(b"Subject: a\r\n")
    _pour(stream, b" b\r\n" * (PIECE // 4), total)


def unfinished_mail(stream: socket.socket, total: int) -> None:
    """Nearly a whole large mail, then a byte now and then."""
    _to_data(stream)
    stream.sendall(b"Subject: a\r\n\r\n")
    _pour(stream, (b"x" * 62 + b"\r\n") * (PIECE // 64), min(total, UNFINISHED_BYTES))
    until = time.monotonic() + DRIP_S
    while time.monotonic() < until:
        stream.sendall(b"x")
        time.sleep(0.2)


def many_commands(stream: socket.socket, total: int) -> None:
    """Commands without waiting for an answer and without reading any."""
    _pour(stream, b"NOOP " + b"x" * 57 + b"\r\n", total // 8)


ATTACKS: tuple[Callable[[socket.socket, int], None], ...] = (
    body_without_line_ends,
    command_without_line_end,
    header_flood,
    folded_header,
    unfinished_mail,
    many_commands,
)


def _attack(kind: Callable[[socket.socket, int], None], number: int, total: int) -> None:
    with suppress(OSError), socket.socket() as stream:  # the relay may hang up: that is its right
        stream.settimeout(ATTACK_S)
        stream.bind((f"127.1.{number % 16}.2", 0))
        stream.connect((str(RELAY), 25))
        kind(stream, total)


def attack(relay: Relay, connections: int, total: int) -> dict[str, float]:
    """Each kind of attack by all connections at once; the most memory that was in use."""
    figures = {"rss_before_attack_mib": relay.rss_mib()}
    most = [0.0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            most[0] = max(most[0], relay.rss_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for kind in ATTACKS:
        most[0] = 0.0
        threads = [threading.Thread(target=_attack, args=(kind, number, total)) for number in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        figures[f"rss_{kind.__name__}_mib"] = most[0]
        sys.stderr.write(f"    {kind.__name__}: {most[0]:.0f} MiB\n")
    over.set()
    watcher.join()
    figures["max_rss_under_attack_mib"] = max(figures.values())
    figures["mail_after_attack_ms"] = asyncio.run(send_one(RELAY))
    return figures


def main() -> int:
    """Measure; print the figures."""
    allow_many_files()
    relay, sink = Relay(place("relay")), Sink()
    relay.write()
    relay.start()
    before = sink.count
    if sys.argv[1] == "idle":
        figures = uvloop.run(hold(relay, int(sys.argv[2])))
    else:
        figures = attack(relay, int(sys.argv[2]), int(sys.argv[3]) * 1024 * 1024)
    sink.wait(before + 1, 30)
    relay.stop()
    sink.stop()
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
