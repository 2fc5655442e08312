"""The relay end to end on loopback: what a device sends, what the smarthost gets, what comes back."""

import asyncio
import base64
import email
import time
from email.policy import default

import aiosmtplib
import pytest
from sqlalchemy import select

from cloudside.config import Listen
from cloudside.errors import ConfigurationError
from cloudside.mail import service
from cloudside.mail.delivery import settling
from cloudside.mail.store.queue import Queue
from cloudside.mail.store.sqlite import StorageFullError
from cloudside.registry.tables import Incident, Site
from lab import queue_view

SENDER, RECIPIENT = "plc@site.test", "ops@customer.test"


async def send(world, content, recipients=(RECIPIENT,), sender=SENDER, source=None):
    async with world.client(source or world.source) as client:
        return await client.sendmail(sender, list(recipients), content)


async def state_of(world, state, timeout_s=5.0):
    async with asyncio.timeout(timeout_s):
        while not queue_view.counts(world.config.queue_directory).get(state):
            await asyncio.sleep(0.02)


def incidents(world):
    with world.database.read() as session:
        return list(session.scalars(select(Incident).order_by(Incident.id)))


async def incident(world, kind, timeout_s=5.0):
    async with asyncio.timeout(timeout_s):
        while True:
            found = [one for one in incidents(world) if one.kind == kind]
            if found:
                return found
            await asyncio.sleep(0.05)


async def test_site_mail_is_delivered_with_headers_completed_and_secrets_stripped(world, mail):
    async with world.relay():
        await send(world, mail(extra="Bcc: boss@site.test\r\nX-SES-SOURCE-ARN: arn:x\r\n"), ["a@x.test", "b@x.test"])
        taken = await world.smarthost.wait(2)
    assert sorted(one.recipient for one in taken) == ["a@x.test", "b@x.test"]
    assert taken[0].sender != taken[1].sender
    assert all(one.sender.startswith("b+") and one.sender.endswith("@bounces.test") for one in taken)
    message = email.message_from_bytes(taken[0].content, policy=default)
    assert message["Bcc"] is None and message["X-SES-SOURCE-ARN"] is None
    assert message["Message-ID"] and message["Date"] and "127.0.1.20" in message["Received"]
    assert message.get_content().strip() == "Pump 3 stopped."


async def test_one_connection_serves_many_mails(world, mail):
    async with world.relay():
        for _ in range(30):
            await send(world, mail())
        await world.smarthost.wait(30, timeout_s=20)
    assert world.smarthost.logins <= world.config.relay.smarthost_connections


async def test_unknown_source_and_revoked_site_are_refused(world, mail):
    async with world.relay():
        for source in ("127.0.0.1", "127.0.2.20"):
            with pytest.raises(aiosmtplib.SMTPSenderRefused) as refusal:
                await send(world, mail(), source=(source, 0))
            assert refusal.value.code == 550
    assert not world.smarthost.taken


async def test_site_revoked_while_the_relay_runs_is_refused_within_two_seconds(world, mail):
    async with world.relay():
        await send(world, mail())
        with world.database.write() as session:
            site = session.get(Site, "tokyo-1")
            site.revoked_at = site.created_at
        until = time.monotonic() + 2
        # At whichever command the relay has read of it by then.
        refused = (aiosmtplib.SMTPSenderRefused, aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPDataError)
        with pytest.raises(refused, match=r"may (not )?send mail here"):
            while time.monotonic() < until:
                await send(world, mail())
                await asyncio.sleep(0.05)


async def test_no_registry_means_451(world, mail, tmp_path):
    world.database.close()
    (tmp_path / "registry.sqlite").unlink()
    async with world.relay():
        with pytest.raises(aiosmtplib.SMTPSenderRefused) as refusal:
            await send(world, mail())
    assert refusal.value.code == 451
    assert not (tmp_path / "registry.sqlite").exists()


async def test_registry_lost_later_keeps_the_last_good_snapshot(world, mail, tmp_path):
    async with world.relay():
        world.database.close()
        (tmp_path / "registry.sqlite").rename(tmp_path / "gone")
        await asyncio.sleep(1.2)
        await send(world, mail())
        await world.smarthost.wait(1)


async def submission(world, user, password):
    listen = world.config.relay.submission_listen
    client = aiosmtplib.SMTP(
        hostname="127.0.0.1",
        port=listen.port,
        start_tls=True,
        local_hostname="plc",
        cert_bundle=str(world.tls.certificate),
        timeout=10,
    )
    await client.connect()
    await client.login(user, password)
    return client


@pytest.mark.parametrize("mechanism", ["plain", "login"])
async def test_submission_with_password(world, mail, mechanism):
    async with world.relay():
        listen = world.config.relay.submission_listen
        client = aiosmtplib.SMTP(
            hostname="127.0.0.1",
            port=listen.port,
            start_tls=True,
            local_hostname="plc",
            cert_bundle=str(world.tls.certificate),
            timeout=10,
        )
        await client.connect()
        await client.ehlo()
        await getattr(client, f"auth_{mechanism}")("plc", world.password)
        await client.sendmail(SENDER, [RECIPIENT], mail())
        await client.quit()
        taken = await world.smarthost.wait(1)
    assert b"with ESMTPSA" in taken[0].content


async def test_submission_refuses_wrong_password_revoked_site_and_no_login(world, mail):
    async with world.relay():
        with pytest.raises(aiosmtplib.SMTPAuthenticationError):
            await submission(world, "plc", "wrong")
        client = await submission(world, "old", world.password)
        with pytest.raises(aiosmtplib.SMTPSenderRefused):
            await client.mail(SENDER)
        await client.quit()
        listen = world.config.relay.submission_listen
        plain = aiosmtplib.SMTP(
            hostname="127.0.0.1", port=listen.port, start_tls=False, local_hostname="plc", timeout=10
        )
        async with plain:
            await plain.ehlo()
            with pytest.raises(aiosmtplib.SMTPResponseException) as refusal:
                await plain.mail(SENDER)
            assert refusal.value.code == 530
            secret = base64.b64encode(f"\0plc\0{world.password}".encode()).decode()
            code, _ = await plain.execute_command(b"AUTH", b"PLAIN", secret.encode())
            assert code == 538


async def test_refused_recipient_brings_a_report_to_the_sender_at_once(world, mail):
    world.smarthost.refused["gone@customer.test"] = "550 5.1.1 No such user"
    async with world.relay():
        await send(world, mail(), ["gone@customer.test"])
        taken = await world.smarthost.wait(1)
    report = email.message_from_bytes(taken[0].content, policy=default)
    assert taken[0].recipient == SENDER and taken[0].sender.startswith("n+")
    assert report.get_content_type() == "multipart/report"
    assert report["Auto-Submitted"] == "auto-replied"
    status = report.get_payload(1).get_payload(1)
    assert status["Final-Recipient"] == "rfc822; gone@customer.test" and status["Status"] == "5.1.1"
    assert "No such user" in report.get_payload(0).get_content()


@pytest.mark.parametrize("case", ["null sender", "auto-reply", "bulk"])
async def test_nobody_is_told_when_nobody_must_be(world, mail, case):
    world.smarthost.refused["gone@customer.test"] = "550 5.1.1 No such user"
    extra = {"auto-reply": "Auto-Submitted: auto-replied\r\n", "bulk": "Precedence: bulk\r\n"}.get(case, "")
    async with world.relay():
        await send(world, mail(extra=extra), ["gone@customer.test"], sender="" if case == "null sender" else SENDER)
        await state_of(world, "bounced")
        await asyncio.sleep(0.2)
    assert not world.smarthost.taken


async def bounce(world, address, content, sender=""):
    listen = world.config.relay.bounce_listen
    async with aiosmtplib.SMTP(
        hostname="127.0.0.1", port=listen.port, start_tls=False, local_hostname="plc", timeout=10
    ) as client:
        return await client.sendmail(sender, [address], content)


DSN = (
    b"From: MAILER-DAEMON@mx.test\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
    b"--b\r\n\r\nSorry.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.test\r\n\r\n"
    b"Final-Recipient: rfc822; moved@elsewhere.test\r\nAction: ACTION\r\nStatus: 5.2.2\r\n"
    b"Diagnostic-Code: smtp; 552 Mailbox full\r\n\r\n--b--\r\n"
)


async def test_bounce_reaches_the_sender_once_however_often_it_comes(world, mail):
    async with world.relay():
        await world.listening(world.config.relay.bounce_listen)
        await send(world, mail())
        (first,) = await world.smarthost.wait(1)
        for _ in range(3):
            await bounce(world, first.sender, DSN.replace(b"ACTION", b"failed"))
        taken = await world.smarthost.wait(2)
        await asyncio.sleep(0.3)
        assert len(taken) == 2
        assert taken[1].recipient == SENDER and b"552 Mailbox full" in taken[1].content
        assert b"ops@customer.test" in taken[1].content  # the address the sender used, not where it was forwarded
        await bounce(world, taken[1].sender, DSN.replace(b"ACTION", b"failed"))
        await asyncio.sleep(0.3)
        assert len(taken) == 2  # no bounce for a bounce
    assert queue_view.counts(world.config.queue_directory) == {"bounced": 2}


async def test_delay_notice_is_no_failure(world, mail):
    async with world.relay():
        await world.listening(world.config.relay.bounce_listen)
        await send(world, mail())
        (first,) = await world.smarthost.wait(1)
        await bounce(world, first.sender, DSN.replace(b"ACTION", b"delayed"))
        await asyncio.sleep(0.2)
    assert queue_view.counts(world.config.queue_directory) == {"delivered": 1}


async def test_bounce_listener_takes_signed_addresses_only_and_no_bare_line_ends(world, mail):
    async with world.relay():
        await world.listening(world.config.relay.bounce_listen)
        await send(world, mail())
        (first,) = await world.smarthost.wait(1)
        forged = first.sender.replace(first.sender[5], "a" if first.sender[5] != "a" else "b", 1)
        for address in (forged, "someone@customer.test", "b+@bounces.test"):
            with pytest.raises(aiosmtplib.SMTPRecipientsRefused):
                await bounce(world, address, DSN)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.config.relay.bounce_listen.port)
        writer.write(
            b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<" + first.sender.encode() + b">\r\nDATA\r\n"
            b"Subject: x\n.\nMAIL FROM:<a@b.c>\r\n.\r\n"
        )
        answer = b""
        while b"354" not in answer or not answer.rstrip().rpartition(b"\n")[2].startswith(b"554"):
            chunk = await asyncio.wait_for(reader.read(4096), 5)
            assert chunk
            answer += chunk
        writer.close()
        await writer.wait_closed()


async def test_sending_rate_exceeded_slows_and_uses_up_no_try(world, mail):
    world.smarthost.answers[:] = ["454 Throttling failure: Maximum sending rate exceeded."] * 3
    async with world.relay():
        await send(world, mail())
        await world.smarthost.wait(1)
        await state_of(world, "delivered")
    (story,) = queue_view.trace(world.config.queue_directory, RECIPIENT)
    assert story.entries[0].attempts == 0
    assert not incidents(world)


async def test_daily_quota_pauses_and_tells_staff_once(world, mail):
    world.smarthost.answers[:] = ["454 Throttling failure: Daily message quota exceeded."] * 4
    world = world.changed(retry_first_s=0.6)
    async with world.relay():
        for _ in range(3):
            await send(world, mail())
        (opened,) = await incident(world, "smarthost-quota")
        assert opened.closed_at is None
        taken = await world.smarthost.wait(4, timeout_s=8)
        await asyncio.sleep(1.3)
        assert world.smarthost.transactions <= 4 + 4 + 3
    assert sorted(one.recipient for one in taken) == [RECIPIENT] * 3 + ["ops@kyoten.test"]
    assert [one.closed_at is not None for one in incidents(world)] == [True]
    story = queue_view.trace(world.config.queue_directory, RECIPIENT)[-1]
    assert story.entries[0].attempts == 0


async def test_refused_credential_is_our_fault_and_nothing_is_lost(world, mail):
    right, world.smarthost.password = world.smarthost.password, "changed"
    async with world.relay():
        await send(world, mail())
        await incident(world, "smarthost-refused")
        assert "delivered" not in queue_view.counts(world.config.queue_directory)
        world.smarthost.password = right
        await world.smarthost.wait(2, timeout_s=8)
    assert all(
        entry.attempts == 0
        for story in queue_view.trace(world.config.queue_directory, RECIPIENT)
        for entry in story.entries
    )


async def test_temporary_failure_and_broken_connection_are_tried_again(world, mail):
    world.smarthost.answers[:] = ["drop", "451 4.3.0 Later"]
    async with world.relay():
        await send(world, mail())
        await world.smarthost.wait(1)
        await state_of(world, "delivered")
    (story,) = queue_view.trace(world.config.queue_directory, RECIPIENT)
    assert story.entries[0].attempts == 2
    assert [item.event for item in story.happenings] == ["accepted", "postponed", "postponed", "delivered"]


async def test_recipient_is_given_up_with_a_report_when_time_is_over(world, mail):
    world.smarthost.refused[RECIPIENT] = "450 4.2.1 Mailbox busy"
    world = world.changed(give_up_s=0.5)
    async with world.relay():
        await send(world, mail())
        taken = await world.smarthost.wait(1)
    assert taken[0].recipient == SENDER and b"4.4.7" in taken[0].content
    assert queue_view.counts(world.config.queue_directory)["expired"] == 1


async def test_flood_is_told_once_and_survives_a_restart(world, mail):
    world = world.changed(hourly_limit_per_site=5)
    async with world.relay():
        for number in range(8):
            await send(world, mail(subject=f"Alarm {number}"))
        await incident(world, "mail-flood")
        await world.smarthost.wait(9)
    async with world.relay():
        await send(world, mail())
        await world.smarthost.wait(10)
        await asyncio.sleep(1.5)
    notices = [one for one in world.smarthost.taken if one.recipient == "ops@kyoten.test"]
    assert len(notices) == 1 and len(incidents(world)) == 1
    text = email.message_from_bytes(notices[0].content, policy=default).get_content()
    assert "tokyo-1" in text and "limit of 5" in text and "127.0.1.20" in text and RECIPIENT in text and "Alarm" in text


async def test_mail_below_the_limit_raises_nothing(world, mail):
    world = world.changed(hourly_limit_per_site=5)
    async with world.relay():
        for _ in range(5):
            await send(world, mail())
        await world.smarthost.wait(5)
        await asyncio.sleep(1.2)
    assert not incidents(world)


async def test_an_outcome_that_cannot_be_written_is_kept_until_it_can(world, mail, monkeypatch):
    failures = [StorageFullError("mail.disk-full", path="x")] * 2
    really = Queue.delivered

    async def delivered(queue, attempt, now, reply, remote_id):
        if failures:
            raise failures.pop()
        await really(queue, attempt, now, reply, remote_id)

    monkeypatch.setattr(Queue, "delivered", delivered)
    monkeypatch.setattr(settling, "AGAIN_S", 0.05)
    async with world.relay():
        await send(world, mail())
        await state_of(world, "delivered")
    assert not failures and len(world.smarthost.taken) == 1


async def test_a_port_that_may_not_be_used_is_a_configuration_error(world):
    elsewhere = Listen.model_construct(address="203.0.113.256", port=25)
    with pytest.raises(ConfigurationError) as error:
        await service.run(world.changed(site_listen=elsewhere).config, asyncio.Event())
    assert error.value.key == "mail.cannot-listen"
