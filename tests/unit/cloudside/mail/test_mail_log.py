"""What the relay logs: enough to follow one mail, and nothing that a mail or a login keeps to itself."""

import base64
import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import suppress

import aiosmtplib
import pytest
import structlog

from cloudside.logging import configure

SENDER = "hiroshi.private@site.test"
GONE = "michiko.secret@customer.test"
SUBJECT, BODY = "Vault code 4711-subject", "The key lies under the mat-body"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that is logged, as a daemon logs it."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure(level="debug", json_lines=True)
    yield written
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def entries(log: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


async def submit(world, user, password, content):
    client = aiosmtplib.SMTP(
        hostname="127.0.0.1", port=world.config.relay.submission_listen.port, start_tls=True, local_hostname="plc",
        cert_bundle=str(world.tls.certificate), timeout=10,
    )  # fmt: skip
    async with client:
        await client.login(user, password)
        await client.sendmail(SENDER, ["ops@customer.test"], content)


async def a_busy_minute(world, mail):
    """Mail that is taken, refused, too large, bounced; logins right and wrong; a bounce from outside."""
    world.smarthost.refused[GONE] = "550 5.1.1 No such user"
    content = mail(subject=SUBJECT, body=BODY + "\r\n")
    async with world.relay():
        async with world.client() as client:
            await client.sendmail(SENDER, ["ops@customer.test", GONE], content)
            with suppress(aiosmtplib.SMTPException):
                await client.sendmail(SENDER, ["ops@customer.test"], content + b"x" * 200_000)
        with suppress(aiosmtplib.SMTPException):
            async with world.client(("127.0.9.9", 0)) as client:
                await client.sendmail(SENDER, ["ops@customer.test"], content)
        await submit(world, "plc", world.password, content)
        with suppress(aiosmtplib.SMTPException):
            await submit(world, "plc", "wrong-password-17", content)
        taken = await world.smarthost.wait(3)
        await world.listening(world.config.relay.bounce_listen)
        async with aiosmtplib.SMTP(
            hostname="127.0.0.1", port=world.config.relay.bounce_listen.port, start_tls=False, local_hostname="mx"
        ) as client:
            await client.sendmail("", [taken[0].sender], content)
        await world.smarthost.wait(3)


async def test_no_secret_subject_body_or_password_is_logged(world, mail, log):
    await a_busy_minute(world, mail)
    text = log.getvalue()
    smarthost = world.smarthost.password
    for secret in (world.password, "wrong-password-17", smarthost, SUBJECT, BODY, "michiko", "hiroshi"):
        assert secret not in text
        assert base64.b64encode(secret.encode()).decode().rstrip("=")[:-1] not in text
    assert base64.b64encode(f"\0plc\0{world.password}".encode()).decode() not in text


async def test_one_mail_can_be_followed_by_its_id(world, mail, log):
    await a_busy_minute(world, mail)
    accepted = [entry for entry in entries(log) if entry["event"] == "mail-accepted"]
    assert len(accepted) == 2
    for one in accepted:
        assert one["origin"] == "tokyo-1" and one["size"] and one["recipients"]
        attempts = [e for e in entries(log) if e["event"] == "mail-attempt" and e["message"] == one["message"]]
        assert len(attempts) == one["recipients"]


async def test_what_was_refused_is_logged_with_its_source(world, mail, log):
    await a_busy_minute(world, mail)
    refused = [entry for entry in entries(log) if entry.get("source") == "127.0.9.9"]
    assert refused and all("message" not in entry for entry in refused)
