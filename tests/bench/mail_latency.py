"""How long a client waits for its 250, Kyoten and Postfix in turns: ``ROUNDS MESSAGES``. Prints JSON.

20 clients, each with a new connection for each mail, as fast as they are served. Measured at the client: from the
moment that CRLF.CRLF was handed to the kernel until the reply is there. smtp-source tells nothing of single mails.
"""

import asyncio
import json
import sys
import time
from ipaddress import IPv4Address
from statistics import median

import uvloop

from tests.bench.mail_throughput import DRAIN_S, SERVERS
from tests.bench.mail_world import BODY_BYTES, RECIPIENT, SENDER, build, percentile

CLIENTS = 20
_LINE = b"x" * 78 + b"\r\n"
MAIL = (
    f"From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: Fault 7\r\n\r\n".encode()
    + _LINE * (BODY_BYTES // len(_LINE))
    + b".\r\n"
)


async def _expect(reader: asyncio.StreamReader, code: bytes) -> None:
    while True:
        line = await reader.readline()
        if not line.startswith(code):
            raise SystemExit(f"wanted {code.decode()}, got {line!r}")
        if line[3:4] != b"-":
            return


async def send_one(address: IPv4Address) -> float:
    """One mail on a new connection; milliseconds from the end of the data to the reply."""
    reader, writer = await asyncio.open_connection(str(address), 25)
    await _expect(reader, b"220")
    for command, code in (
        (b"EHLO plc.site.example\r\n", b"250"),
        (f"MAIL FROM:<{SENDER}>\r\n".encode(), b"250"),
        (f"RCPT TO:<{RECIPIENT}>\r\n".encode(), b"250"),
        (b"DATA\r\n", b"354"),
    ):
        writer.write(command)
        await _expect(reader, code)
    writer.write(MAIL)
    await writer.drain()
    began = time.perf_counter()
    await _expect(reader, b"250")
    took_ms = (time.perf_counter() - began) * 1000
    writer.write(b"QUIT\r\n")
    await _expect(reader, b"221")
    writer.close()
    return took_ms


async def one_round(address: IPv4Address, messages: int) -> list[float]:
    """All clients at once; each mail's milliseconds."""

    async def client() -> list[float]:
        return [await send_one(address) for _ in range(messages // CLIENTS)]

    found = await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return [took for one in found for took in one]


def main() -> int:
    """Measure; print the figures."""
    count, messages = int(sys.argv[1]), int(sys.argv[2])
    world = build()
    taken: dict[str, list[list[float]]] = {name: [] for name in SERVERS}
    for number in range(count + 1):
        for name, address in SERVERS.items():
            before = world.sink.count
            found = uvloop.run(one_round(address, messages if number else 200))
            world.sink.wait(before + len(found), DRAIN_S)
            if number:  # the first one warms up
                taken[name].append(found)
    figures = {}
    for name, suffix in (("kyoten", ""), ("postfix", "_postfix")):
        for share in (50, 99):
            figures[f"accept_ms_p{share}{suffix}"] = median(percentile(one, share) for one in taken[name])
    world.stop()
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
