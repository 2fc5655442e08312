"""Second ways for notices, against real TLS servers: webhooks, another smarthost, and who comes first."""

import asyncio
import hashlib
import hmac
import json
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloudside.alerts import paths
from cloudside.alerts.notices import Notice, Stage
from cloudside.alerts.paths import PathError, SmarthostWay, Telling, WebhookWay
from cloudside.alerts.telling import Teller
from cloudside.config import Alerts, SecondSmarthost, Webhook
from lab.webhook import Webhook as Receiver

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECRET_PATH = "/hooks/T0000/very-secret"


def telling(subject="tokyo-1", stage=Stage.OPENED, number=1):
    notice = Notice(f"Mail flood: {subject}", "body – 本文\n")
    return Telling(f"incident/{number}", "mail-flood", subject, stage, notice, NOW, NOW, 1, {"count": 61})


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    certificate, private = directory / "cert.pem", directory / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


@pytest.fixture
async def hook(tls, tmp_path):
    """A receiver, and the way to it; signed with the key "shared"."""
    receiver = Receiver()
    async with receiver.listening("127.0.0.1", 0, *tls) as port:
        url, key = tmp_path / "url", tmp_path / "key"
        url.write_text(f"https://127.0.0.1:{port}{SECRET_PATH}\n")
        key.write_text("shared\n")
        yield receiver, WebhookWay(Webhook(url=url, key=key, ca=tls[0]), 1)


async def test_a_webhook_gets_the_notice_as_signed_json(hook):
    receiver, way = hook
    await way.tell(telling())
    (post,) = receiver.posts
    assert post.path == SECRET_PATH
    expected = "sha256=" + hmac.new(b"shared", post.body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(post.headers["x-kyoten-signature"], expected)
    said = json.loads(post.body)
    assert said["id"] == "incident/1" and said["kind"] == "mail-flood" and said["stage"] == "opened"
    assert said["text"] == "body – 本文\n" and said["params"] == {"count": 61}


@pytest.mark.parametrize(("status", "lasting"), [(500, False), (429, False), (404, True), (302, True)])
async def test_what_a_webhook_does_not_take_is_told_without_its_address(hook, status, lasting):
    receiver, way = hook
    receiver.answers[:] = [status]
    with pytest.raises(PathError, match=str(status)) as error:
        await way.tell(telling())
    assert error.value.lasting is lasting and "secret" not in str(error.value)
    assert len(receiver.posts) == 1  # a redirection is not followed


async def test_a_webhook_that_says_nothing_is_given_up(hook, monkeypatch):
    receiver, way = hook
    receiver.answers[:] = [0]
    monkeypatch.setattr(paths, "TRY_S", 0.2)
    with pytest.raises(PathError, match="no answer") as error:
        await way.tell(telling())
    assert not error.value.lasting


async def test_a_webhook_whose_certificate_nobody_vouches_for_gets_nothing(hook, tls, tmp_path):
    receiver, _ = hook
    way = WebhookWay(Webhook(url=tmp_path / "url"), 1)
    with pytest.raises(PathError) as error:
        await way.tell(telling())
    assert not receiver.posts and "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x-secret", "", "127.0.0.1/secret", "https:///secret"])
async def test_only_https_addresses_are_used(tmp_path, url):
    path = tmp_path / "url"
    path.write_text(url)
    with pytest.raises(PathError) as error:
        await WebhookWay(Webhook(url=path), 1).tell(telling())
    assert error.value.lasting and "secret" not in str(error.value)


async def test_a_connection_refused_says_so_and_not_where(tmp_path, unused_tcp_port):
    path = tmp_path / "url"
    path.write_text(f"https://127.0.0.1:{unused_tcp_port}/secret")
    with pytest.raises(PathError, match="ConnectError") as error:
        await WebhookWay(Webhook(url=path), 1).tell(telling())
    assert not error.value.lasting and "secret" not in str(error.value)


@pytest.fixture
def unused_tcp_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Second:
    """Another smarthost."""

    password: str = "right"
    answer: str = "250 OK"
    mails: list = field(default_factory=list)

    def authenticate(self, _server, _session, _envelope, _mechanism, data):
        return AuthResult(success=data.password.decode() == self.password, handled=False)

    async def handle_DATA(self, _server, _session, envelope):
        if self.answer.startswith("250"):
            self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return self.answer

    @asynccontextmanager
    async def listening(self, tls, tmp_path):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(
                self, loop=loop, tls_context=context, require_starttls=True, authenticator=self.authenticate,
                auth_required=True, hostname="second.test",
            ),
            "127.0.0.1", 0,
        )  # fmt: skip
        credentials = tmp_path / "second"
        credentials.write_text("user\nright\n")
        smarthost = SecondSmarthost(
            host="127.0.0.1", port=server.sockets[0].getsockname()[1], credentials=credentials, ca=tls[0]
        )
        try:
            yield SmarthostWay(
                smarthost, ("ops@kyoten.test",), "kyoten@kyoten.test", lambda _: b"Subject: x\r\n\r\ny\r\n"
            )
        finally:
            server.close()


async def test_another_smarthost_takes_the_notice_over_tls(tls, tmp_path):
    second = Second()
    async with second.listening(tls, tmp_path) as way:
        await way.tell(telling())
    assert second.mails == [("kyoten@kyoten.test", ["ops@kyoten.test"], b"Subject: x\r\n\r\ny\r\n")]


async def test_a_smarthost_that_refuses_is_told_without_the_password(tls, tmp_path):
    second = Second(password="other")
    async with second.listening(tls, tmp_path) as way:
        with pytest.raises(PathError, match="535") as error:
            await way.tell(telling())
        second.password, second.answer = "right", "451 4.3.0 later"
        with pytest.raises(PathError, match="451") as later:
            await way.tell(telling())
    assert error.value.lasting and "right" not in str(error.value) and not later.value.lasting


def test_ways_are_those_of_the_configuration(tmp_path):
    hook, second = Webhook(url=tmp_path / "u"), SecondSmarthost(host="mail.example.net")
    compose = bytes.__call__
    assert paths.ways(Alerts(), compose) == []
    named = [way.name for way in paths.ways(Alerts(webhooks=(hook,), smarthost=second, staff=("a@b.test",)), compose)]
    assert named == ["webhook/1", "smarthost/mail.example.net"]
    assert len(paths.ways(Alerts(smarthost=second), compose)) == 0  # nobody to write to


@dataclass
class Way:
    """A way that behaves as told: how often it fails first, and how long it takes."""

    name: str
    failures: int = 0
    takes_s: float = 0.0
    lasting: bool = False
    ends: bool = False
    taken: list = field(default_factory=list)
    tries: int = 0

    async def tell(self, telling):
        self.tries += 1
        await asyncio.sleep(self.takes_s)
        if self.failures:
            self.failures -= 1
            raise PathError("down", lasting=self.lasting)
        self.taken.append(telling.id)


async def test_the_queue_is_not_used_when_a_second_way_took_it():
    hook, mail, queue = Way("webhook/1"), Way("smarthost/x", failures=9), Way("queue")
    teller = Teller([hook, mail], queue, pauses_s=(0.0,))
    assert await teller.tell(telling()) == "webhook/1"
    await asyncio.sleep(0.01)
    assert not queue.tries and teller.troubles == {"smarthost/x": "down"}
    mail.failures = 0
    await teller.tell(telling())
    await asyncio.sleep(0.01)
    assert not teller.troubles and mail.taken == ["incident/1"]


async def test_the_queue_takes_what_the_others_do_not():
    queue = Way("queue")
    assert await Teller([], queue).tell(telling()) == "queue"
    teller = Teller([Way("webhook/1", failures=9, lasting=True)], queue)
    assert await teller.tell(telling()) == "queue" and len(queue.taken) == 2


async def test_a_way_that_hangs_delays_nothing_for_long():
    slow, queue = Way("webhook/1", takes_s=5), Way("queue")
    teller = Teller([slow], queue, patience_s=0.05)
    start = asyncio.get_running_loop().time()
    assert await teller.tell(telling()) == "queue"
    assert asyncio.get_running_loop().time() - start < 1
    teller.close()


async def test_a_passing_failure_is_tried_again_and_is_no_trouble():
    hook = Way("webhook/1", failures=1)
    teller = Teller([hook], Way("queue"), pauses_s=(0.0, 0.0))
    assert await teller.tell(telling()) == "webhook/1"
    assert hook.tries == 2 and not teller.troubles


async def test_nobody_took_it():
    teller = Teller([Way("webhook/1", failures=9)], None, pauses_s=())
    assert await teller.tell(telling()) is None
    assert Teller([], None).mute and not teller.mute


async def test_ends_go_to_machines_only_and_never_to_the_queue():
    hook, mail, queue = Way("webhook/1", ends=True), Way("smarthost/x"), Way("queue")
    assert await Teller([hook, mail], queue).tell(telling(stage=Stage.ENDED)) == "webhook/1"
    assert not mail.tries and not queue.tries
    assert await Teller([mail], queue).tell(telling(stage=Stage.ENDED)) == "-"


async def test_a_way_is_not_asked_to_tell_of_its_own_failure():
    hook, queue = Way("webhook/1"), Way("queue")
    assert await Teller([hook], queue).tell(telling(subject="webhook/1")) == "queue"
    assert not hook.tries
