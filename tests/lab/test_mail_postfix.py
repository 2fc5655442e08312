"""The relay between real Postfixes: a smarthost like SES's and the host with the customer's mailboxes.

One network namespace; each daemon has an address of its own on loopback.
"""

import smtplib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import Message
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select

from cloudside.registry.database import Database
from cloudside.registry.tables import Incident, Site, Table, Tenant
from lab import box, queue_view
from lab.mail import MailboxHost, Mood, SesStandIn, log_text
from lab.network import wait_until
from linux.runner import SubprocessRunner

SES, MAILBOX, RELAY = IPv4Address("127.0.30.1"), IPv4Address("127.0.30.2"), IPv4Address("127.0.30.3")
SITE_SOURCE = "127.0.31.20"
CUSTOMER, STAFF, SENDER = "ops@customer.test", "staff@kyoten.test", "plc@site.test"

RUN_RELAY = """
import asyncio, sys
from pathlib import Path
from cloudside.config import load
from cloudside.mail.service import run
asyncio.run(run(load(Path(sys.argv[1])), asyncio.Event()))
"""


def self_signed(directory: Path) -> tuple[Path, Path]:
    """Certificate and key for the smarthost's address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ses")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(SES)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "ses.pem", directory / "ses.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def answers(address: IPv4Address, port: int) -> bool:
    try:
        with smtplib.SMTP(str(address), port, timeout=2, local_hostname="probe") as client:
            return client.noop()[0] == 250
    except OSError:
        return False


@dataclass
class MailWorld:
    """Everything that runs."""

    directory: Path
    ses: SesStandIn
    mailbox: MailboxHost
    relay: subprocess.Popen[bytes]
    database: Database

    @property
    def queue_directory(self) -> Path:
        return self.directory / "state" / "mail"

    def send(self, recipient: str = CUSTOMER, subject: str = "Fault 7") -> None:
        """As a controller does."""
        with smtplib.SMTP(str(RELAY), 25, local_hostname="plc", timeout=10, source_address=(SITE_SOURCE, 0)) as client:
            client.sendmail(
                SENDER, [recipient], f"From: {SENDER}\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\nPump 3\r\n"
            )

    def wait_for(self, address: str, count: int, timeout_s: float = 20.0) -> list[Message]:
        """The mailbox's mail, once ``count`` are there."""
        try:
            wait_until(
                f"{count} mails for {address}",
                lambda: len(self.mailbox.messages(address)) >= count,
                timeout_s=timeout_s,
            )
        except Exception:
            print(  # noqa: T201
                log_text(self.ses.directory),
                log_text(self.mailbox.directory),
                (self.directory / "relay.log").read_text(),
            )
            raise
        return self.mailbox.messages(address)

    def incidents(self, kind: str) -> list[Incident]:
        with self.database.read() as session:
            return list(session.scalars(select(Incident).where(Incident.kind == kind)))


@pytest.fixture
def mail_world(request: pytest.FixtureRequest) -> Iterator[MailWorld]:
    directory = box.directory() / f"mail-{time.monotonic_ns()}"
    directory.mkdir()
    state = directory / "state"
    state.mkdir(mode=0o700)
    certificate, key = self_signed(directory)
    mailbox = MailboxHost(directory / "mailbox", MAILBOX, (CUSTOMER, STAFF, SENDER))
    mailbox.write()
    for own in (SES, MAILBOX):  # Postfix wants its address on an interface, not merely inside 127.0.0.0/8
        SubprocessRunner().run(["ip", "addr", "replace", f"{own}/32", "dev", "lo"])
    ses = SesStandIn(
        directory / "ses",
        SES,
        {
            "customer.test": (MAILBOX, 25),
            "kyoten.test": (MAILBOX, 25),
            "site.test": (MAILBOX, 25),
            "bounces.test": (RELAY, 2525),
        },
        certificate,
        key,
        "AKIAEXAMPLE",
        "smarthost-password",
    )
    ses.write(SubprocessRunner())
    credentials = directory / "credentials"
    credentials.write_text("AKIAEXAMPLE\nsmarthost-password\n")
    credentials.chmod(0o600)
    database = Database(f"sqlite:///{state / 'registry.sqlite'}")
    Table.metadata.create_all(database.engine)
    now = datetime.now(UTC)
    with database.write() as session:
        session.add(Tenant(id="acme", block=ip_network("127.0.0.0/16"), created_at=now))
        session.flush()
        prefix = ip_network("127.0.31.0/24")
        session.add(Site(id="tokyo-1", tenant_id="acme", overlay=prefix, lan=prefix, created_at=now))
    configuration = directory / "kyoten.toml"
    configuration.write_text(f"""
state_directory = "{state}"
[relay]
site_listen = {{ address = "{RELAY}", port = 25 }}
bounce_listen = {{ address = "{RELAY}", port = 2525 }}
bounce_domain = "bounces.test"
host_name = "relay.test"
smarthost = "{SES}"
smarthost_credentials = "{credentials}"
smarthost_ca = "{certificate}"
retry_first_s = 1.5
hourly_limit_per_site = {getattr(request, "param", 1000)}
[alerts]
staff = ["{STAFF}"]
sender = "kyoten@kyoten.test"
""")
    daemons = [
        subprocess.Popen(host.argv(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for host in (mailbox, ses)
    ]
    with (directory / "relay.log").open("wb") as log:
        relay = subprocess.Popen([sys.executable, "-c", RUN_RELAY, str(configuration)], stdout=log, stderr=log)
    world = MailWorld(directory, ses, mailbox, relay, database)
    try:
        for address, port in ((MAILBOX, 25), (SES, 587), (RELAY, 25), (RELAY, 2525)):
            wait_until(f"{address} port {port}", lambda at=address, to=port: answers(at, to), timeout_s=15)
        yield world
    finally:
        for process in (relay, *daemons):
            process.terminate()
            process.wait(10)
        database.close()


def test_delivery_and_its_latency(mail_world: MailWorld) -> None:
    mail_world.send()
    (first,) = mail_world.wait_for(CUSTOMER, 1)
    assert first["Subject"] == "Fault 7" and "relay.test" in str(first["Received"] or "") + str(
        first.get_all("Received")
    )
    assert str(first["Return-Path"]).startswith("<b+")
    latencies = []
    for number in range(2, 32):
        began = time.monotonic()
        mail_world.send()
        accepted = time.monotonic()
        while len(mail_world.mailbox.messages(CUSTOMER)) < number:
            time.sleep(0.001)
            assert time.monotonic() - began < 10
        latencies.append((time.monotonic() - accepted) * 1000)
    print(f"accept to mailbox: p50 {statistics.median(latencies):.1f} ms, max {max(latencies):.1f} ms")  # noqa: T201


def test_bounce_comes_back_to_the_sender_once(mail_world: MailWorld) -> None:
    mail_world.send("gone@customer.test")
    (report,) = mail_world.wait_for(SENDER, 1)
    assert report.get_content_type() == "multipart/report"
    status = report.get_payload()[1].get_payload()[1]
    assert status["Final-Recipient"] == "rfc822; gone@customer.test"
    assert status["Status"] == "5.1.1"
    time.sleep(1)
    assert len(mail_world.mailbox.messages(SENDER)) == 1
    (story, *_) = queue_view.trace(mail_world.queue_directory, "gone@customer.test")
    assert [item.event for item in story.happenings] == ["accepted", "delivered", "bounced"]


def test_bounce_of_our_own_report_is_absorbed(mail_world: MailWorld) -> None:
    with smtplib.SMTP(str(RELAY), 25, local_hostname="plc", timeout=10, source_address=(SITE_SOURCE, 0)) as client:
        client.sendmail("nobody@site.test", ["gone@customer.test"], "Subject: x\r\n\r\nx\r\n")
    wait_until("two bounces", lambda: queue_view.counts(mail_world.queue_directory) == {"bounced": 2}, timeout_s=20)
    time.sleep(1)
    assert queue_view.counts(mail_world.queue_directory) == {"bounced": 2}


@pytest.mark.parametrize("mood", [Mood.RATE_EXCEEDED, Mood.QUOTA_EXCEEDED])
def test_throttling_delays_and_loses_nothing(mail_world: MailWorld, mood: Mood) -> None:
    mail_world.send()
    mail_world.wait_for(CUSTOMER, 1)
    mail_world.ses.set_mood(mood)
    for _ in range(5):
        mail_world.send()
    time.sleep(2)
    assert len(mail_world.mailbox.messages(CUSTOMER)) == 1
    assert len(mail_world.incidents("smarthost-quota")) == (1 if mood is Mood.QUOTA_EXCEEDED else 0)
    mail_world.ses.set_mood(Mood.NORMAL)
    mail_world.wait_for(CUSTOMER, 6)
    stories = queue_view.trace(mail_world.queue_directory, CUSTOMER)
    assert all(entry.attempts == 0 for story in stories for entry in story.entries)
    if mood is Mood.QUOTA_EXCEEDED:
        mail_world.wait_for(STAFF, 1)
        wait_until(
            "the incident's end", lambda: mail_world.incidents("smarthost-quota")[0].closed_at is not None, timeout_s=10
        )


@pytest.mark.parametrize("mail_world", [5], indirect=True)
def test_flood_raises_one_alarm_with_one_notice(mail_world: MailWorld) -> None:
    for number in range(30):
        mail_world.send(subject=f"Alarm {number}")
    (notice,) = mail_world.wait_for(STAFF, 1)
    assert "tokyo-1" in notice["Subject"]
    for _ in range(10):
        mail_world.send()
    mail_world.wait_for(CUSTOMER, 40)
    time.sleep(2.5)
    assert len(mail_world.mailbox.messages(STAFF)) == 1
    assert len(mail_world.incidents("mail-flood")) == 1
