"""The relay as a whole: what it shows, how it ends, and how it does with processes that take mail for it."""

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import aiosmtplib
import httpx
import pytest

from cloudside.config import Listen
from cloudside.mail import processes
from cloudside.mail.links import attach
from cloudside.mail.store import control

SENDER, RECIPIENT = "plc@site.test", "ops@customer.test"

RUN = """
import asyncio, signal, sys
from pathlib import Path
import uvloop
from cloudside.config import Config
from cloudside.logging import configure
from cloudside.mail import service
config = Config.model_validate_json(sys.argv[1])
tls = service.TlsFiles(Path(sys.argv[2]), Path(sys.argv[3]))
service.prepare_process(config.relay)
children = service.fork_intake(config, tls)
configure(json_lines=True, for_good=True)
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(*[child.pid for child in children], flush=True)
    await service.run(config, stop, tls=tls, children=children)
uvloop.run(main())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def send(world, content):
    async with world.client() as client:
        return await client.sendmail(SENDER, [RECIPIENT], content)


async def test_metrics_tell_what_happened(world, mail):
    port = free_port()
    world = world.changed(metrics_listen=Listen(address=ip_address("127.0.0.1"), port=port))
    async with world.relay():
        await world.listening(world.config.relay.metrics_listen)
        await send(world, mail())
        await world.smarthost.wait(1)
        async with asyncio.timeout(5), httpx.AsyncClient() as client:
            text = ""
            while 'kyoten_mail_finished_total{state="delivered"} 1.0' not in text:
                text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
                await asyncio.sleep(0.05)
    assert 'kyoten_mail_accepted_total{listener="site"} 1.0' in text
    assert "kyoten_mail_smarthost_up 1.0" in text and "kyoten_mail_commit_seconds_count 1.0" in text
    assert "customer.test" not in text and "127.0.1" not in text


async def test_a_mail_that_is_being_sent_gets_its_answer_when_the_relay_ends(world, mail):
    listen = world.config.relay.site_listen
    async with world.relay():
        reader, writer = await asyncio.open_connection(str(listen.address), listen.port, local_addr=world.source)
        await reader.readline()
        for command in ("HELO plc", f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{RECIPIENT}>", "DATA"):
            writer.write(command.encode() + b"\r\n")
            answer = await reader.readline()
            assert answer[:1] in b"23"

        async def finish_later() -> bytes:
            await asyncio.sleep(0.5)  # the relay has been told to end meanwhile
            writer.write(mail() + b".\r\n")
            return await reader.readline()

        finishing = asyncio.create_task(finish_later())
    assert (await finishing).startswith(b"250")
    writer.close()
    with pytest.raises(OSError):
        await asyncio.open_connection(str(listen.address), listen.port)


async def test_the_control_socket_is_the_relays_alone_and_goes_with_it(world):
    path = world.config.runtime_directory / control.FILE_NAME
    async with world.relay():
        async with asyncio.timeout(5):
            while not path.exists():
                await asyncio.sleep(0.01)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@asynccontextmanager
async def in_processes(world) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    """The relay in a process of its own, and process ids of those that take mail for it."""
    world = world.changed(intake_processes=2)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, world.config.model_dump_json(), str(world.tls.certificate), str(world.tls.key),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        children = [int(word) for word in (await process.stdout.readline()).split()]
        async with asyncio.timeout(20):
            await world.listening(world.config.relay.site_listen)
        yield process, children
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def test_processes_take_mail_and_one_queue_has_it(world, mail):
    async with in_processes(world) as (process, children):
        assert len(children) == 2
        await asyncio.gather(*(send(world, mail(subject=f"Fault {number}")) for number in range(20)))
        taken = await world.smarthost.wait(20, timeout_s=20)
        assert len({one.content for one in taken}) == 20
        process.terminate()
        _, logged = await process.communicate()
    assert process.returncode == 0
    events = [json.loads(line) for line in logged.decode().splitlines()]
    assert sum(event["event"] == "mail-accepted" for event in events) == 20
    assert sum(event["event"] == "intake-process" for event in events) == 2
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_refusal_of_the_queue_reaches_the_client_through_its_process(world, mail):
    async with in_processes(world):
        async with world.client() as client:
            with pytest.raises(aiosmtplib.SMTPResponseException) as refusal:
                await client.sendmail(SENDER, [RECIPIENT], mail(body="x" * 50 + "\r\n") + b"y" * 2000 + b"\r\n")
        assert refusal.value.code == 554
        async with world.client(("127.0.9.9", 0)) as stranger:
            with pytest.raises(aiosmtplib.SMTPSenderRefused):
                await stranger.sendmail(SENDER, [RECIPIENT], mail())


async def test_a_process_that_dies_ends_the_relay(world):
    async with in_processes(world) as (process, children):
        os.kill(children[0], signal.SIGKILL)
        async with asyncio.timeout(20):
            _, logged = await process.communicate()
    assert process.returncode not in (0, None)
    assert b"mail.link-closed" in logged or b"UnavailableError" in logged
    with pytest.raises(ProcessLookupError):
        os.kill(children[1], 0)


async def test_processes_take_mail_only_when_the_first_one_has_looked_through_the_queue(tmp_path):
    ready = asyncio.Event()

    async def work(around):
        ready.set()
        await around.stop.wait()

    ours, theirs = socket.socketpair()
    child = asyncio.ensure_future(processes.listen(theirs, tmp_path, work))
    await asyncio.sleep(0.3)
    link = await attach(ours)
    assert not ready.is_set()
    link.tell("begin", "")
    async with asyncio.timeout(5):
        await ready.wait()
    link.tell("stop")
    async with asyncio.timeout(5):
        await child
    link.close()
