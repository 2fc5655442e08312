"""The whole relay: a mail goes out, a bounce comes back by mail or as a notice, its sender and its site are told."""

import asyncio
import email
from email.policy import default

import aiosmtplib
import pytest
from bounce_corpus import shapes

from cloudside.config import Listen, Notices
from cloudside.registry.tables import MailProfile
from lab import sns
from lab.sns import Sns

SHAPES = {shape.name: shape for shape in shapes()}
NOTIFY = "keeper@site.test"


@pytest.fixture
async def amazon(tmp_path):
    async with Sns(tmp_path / "sns") as running:
        yield running


@pytest.fixture
def told_world(world, amazon, unused_port):
    with world.database.write() as session:
        session.add(MailProfile(site_id="tokyo-1", notify=NOTIFY))
    notices = Notices(listen=Listen(address="127.0.0.1", port=unused_port), topics=(amazon.topic,), ca=amazon.authority,
                      hosts=(amazon.host,))  # fmt: skip
    return world.changed(notices=notices)


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_bounce_on_both_ways_is_one_report_to_sender_and_site(told_world, amazon, mail):
    world = told_world
    notices = world.config.relay.notices
    async with world.relay():
        await world.listening(world.config.relay.bounce_listen)
        await world.listening(notices.listen)
        async with world.client() as client:
            await client.sendmail("plc@site.test", ["ops@customer.test"], mail())
        (first,) = await world.smarthost.wait(1)
        notice = amazon.notification(sns.bounce("0100-ses-id", first.sender, "ops@customer.test", feedback="f"))
        url = f"https://127.0.0.1:{notices.listen.port}/"
        assert await amazon.post(url, notice, authority=world.tls.certificate) == 200
        listen = world.config.relay.bounce_listen
        door = aiosmtplib.SMTP(hostname="127.0.0.1", port=listen.port, start_tls=False, local_hostname="mx", timeout=10)
        async with door:
            await door.sendmail("", [first.sender], SHAPES["postfix-unknown"].raw)
        taken = await world.smarthost.wait(3)
        await asyncio.sleep(0.3)
    assert sorted(one.recipient for one in taken) == sorted(["ops@customer.test", "plc@site.test", NOTIFY])
    for one in taken[1:]:
        report = email.message_from_bytes(one.content, policy=default)
        assert report.get_content_type() == "multipart/report" and one.sender.startswith("n+")
        assert "There is no such mailbox" in report.get_payload(0).get_content()
