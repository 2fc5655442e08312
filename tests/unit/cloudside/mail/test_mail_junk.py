"""Junk at the door: the listener answers or hangs up, keeps its memory, and goes on serving others."""

import asyncio
import smtplib
import subprocess
import sys
from pathlib import Path

import pytest

from cloudside.mail.model import Selection
from cloudside.mail.store.queue import Queue

RUN_RELAY = """
import asyncio, sys
from pathlib import Path
from cloudside.config import Config
from cloudside.mail.service import run
asyncio.run(run(Config.model_validate_json(Path(sys.argv[1]).read_text()), asyncio.Event()))
"""
HELLO = b"EHLO plc\r\nMAIL FROM:<plc@site.test>\r\nRCPT TO:<ops@customer.test>\r\nDATA\r\n"


async def connect(world):
    listen = world.config.relay.site_listen
    return await asyncio.open_connection(str(listen.address), listen.port, local_addr=world.source)


async def talk(world, data, *, until=b"221", timeout_s=10):
    """Send and read until a reply line starts with ``until`` or the relay hangs up."""
    reader, writer = await connect(world)
    writer.write(data)
    received = b""
    try:
        async with asyncio.timeout(timeout_s):
            while not any(line.startswith(until) for line in received.split(b"\r\n")):
                chunk = await reader.read(65536)
                if not chunk:
                    break
                received += chunk
    except ConnectionError:
        pass
    writer.close()
    return received.decode("ascii")


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"\x00\x01\x02\r\n" * 3 + b"QUIT\r\n", "500"),
        (b"X" * 200_000 + b"\r\nQUIT\r\n", "500 Command line too long"),
        (b"BOGUS\r\n" * 50, "502 5.5.1 Too many unrecognized commands"),
        (b"EHLO plc\r\nMAIL FROM:<a@b\r\nMAIL FROM:<<>>\r\nMAIL FROM:\r\nQUIT\r\n", "553"),
        (b"EHLO plc\r\nMAIL FROM:<a b@c.test>\r\nQUIT\r\n", "553"),
        (b"EHLO plc\r\nMAIL FROM:<\xff\xfe@c.test>\r\nQUIT\r\n", "500"),
        (b"EHLO plc\r\nMAIL FROM:<a@c.test>\r\nRCPT TO:<@>\r\nRCPT TO:<x@[1.2.3.4]>\r\nQUIT\r\n", "553"),
        (b"EHLO plc\r\nDATA\r\nQUIT\r\n", "503"),
        (b"EHLO plc\r\nMAIL FROM:<a@c.test> SIZE=99999999\r\nQUIT\r\n", "552"),
        (HELLO + b"Subject: x\r\n\r\n" + b"a" * 2000 + b"\r\n.\r\nQUIT\r\n", "554 5.6.0"),
        (HELLO + b"Received: x\r\n" * 40 + b"\r\nx\r\n.\r\nQUIT\r\n", "554 5.4.6"),
        (HELLO + b"a\r\n" * 60_000 + b".\r\nQUIT\r\n", "552 5.3.4"),
    ],
)
async def test_junk_is_refused_and_the_next_mail_goes_through(world, mail, sent, reply):
    async with world.relay():
        answer = await talk(world, sent)
        assert f"\r\n{reply}" in answer
        assert "Traceback" not in answer and "Error: (" not in answer
        async with world.client() as client:
            await client.sendmail("plc@site.test", ["ops@customer.test"], mail())
        await world.smarthost.wait(1)


async def test_bare_line_ends_neither_end_a_mail_nor_leave_as_they_came(world):
    body = b"Subject: s\n\nA dot.\r\nfirst\n.\nMAIL FROM:<evil@x.test>\r.\rlast\r\n.\r\nQUIT\r\n"
    async with world.relay():
        answer = await talk(world, HELLO + body)
        assert answer.count("250 2.0.0 Queued") == 1
        (taken,) = await world.smarthost.wait(1)
        await asyncio.sleep(0.2)
    assert len(world.smarthost.taken) == 1
    assert taken.content.endswith(b"first\r\n.\r\nMAIL FROM:<evil@x.test>\r\n.\r\nlast\r\n")


async def test_connections_of_one_site_are_limited_whatever_address_they_come_from(world):
    world = world.changed(connections_per_site=20)
    listen = world.config.relay.site_listen

    async def from_address(number):
        address = (f"127.0.1.{number}", 0)
        return await asyncio.open_connection(str(listen.address), listen.port, local_addr=address)

    async with world.relay():
        opened = [await from_address(30 + number) for number in range(20)]
        for reader, _ in opened:
            assert (await reader.readline()).startswith(b"220")
        reader, refused = await from_address(99)
        assert (await reader.readline()).startswith(b"421")
        refused.close()
        opened[0][1].close()
        await opened[0][1].wait_closed()
        await asyncio.sleep(0.1)
        assert (await talk(world, b"QUIT\r\n")).startswith("220")
        for _, writer in opened:
            writer.close()


async def test_a_client_that_leaves_before_the_answer_has_its_mail_kept(world, mail):
    async with world.relay():
        _, writer = await connect(world)
        writer.write(HELLO)
        await asyncio.sleep(0.2)
        writer.write(mail() + b".\r\n")
        await writer.drain()
        writer.close()
        await world.smarthost.wait(1)


@pytest.fixture
def relay_process(world, tmp_path):
    """Starts the relay as a process of its own; gives a function that starts it (again) and waits for its port."""
    path = tmp_path / "config.json"
    path.write_text(world.config.model_dump_json())
    started: list[subprocess.Popen[bytes]] = []

    async def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", RUN_RELAY, str(path)], stdout=subprocess.DEVNULL)
        started.append(process)
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await connect(world)
                    break
                except OSError:
                    assert process.poll() is None
                    await asyncio.sleep(0.05)
        writer.close()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


async def test_forty_mebibytes_without_a_line_end_do_not_grow_the_process(world, relay_process):
    process = await relay_process()
    before = rss_mib(process.pid)
    reader, writer = await connect(world)
    writer.write(HELLO)
    while not (await reader.readline()).startswith(b"354"):
        pass
    peak = before
    for _ in range(40):
        writer.write(b"x" * 2**20)
        await writer.drain()
        peak = max(peak, rss_mib(process.pid))
    writer.write(b"\r\n.\r\n")
    assert (await reader.readline()).startswith(b"552")
    writer.close()
    assert peak - before < 8


async def test_mail_answered_with_250_survives_kill_9(world, mail, relay_process):
    world.smarthost.password = "not now"
    process = await relay_process()

    def submit() -> None:
        listen = world.config.relay.site_listen
        with smtplib.SMTP(
            str(listen.address), listen.port, local_hostname="plc", source_address=world.source
        ) as client:
            for number in range(25):
                client.sendmail("plc@site.test", ["ops@customer.test"], mail(subject=f"Fault {number}"))
            process.kill()

    await asyncio.to_thread(submit)
    process.wait()
    queue = Queue(world.config.queue_directory, reserve_bytes=0)  # as the next start finds it
    waiting = [entry for entry in await queue.entries(Selection(), 100) if entry.kind == "mail"]
    queue.close()
    assert sorted(entry.subject for entry in waiting) == sorted(f"Fault {number}" for number in range(25))
    world.smarthost.password = "smarthost-password"
    await relay_process()
    taken = await world.smarthost.wait(25, timeout_s=20)
    subjects = {one.content.partition(b"Subject: ")[2].partition(b"\r\n")[0] for one in taken}
    assert {f"Fault {number}".encode() for number in range(25)} <= subjects
