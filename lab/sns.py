"""A stand-in for Amazon SNS: signs notices with a key of its own and serves its signing certificate over HTTPS.

It also plays what a receiver must withstand: a wrong signature, a foreign topic, a certificate from somebody else's
host, an expired one, the same notice again, garbage. Everything stays on 127.0.0.1.
"""

import asyncio
import base64
import json
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

TOPIC = "arn:aws:sns:ap-northeast-1:123456789012:kyoten-bounces"
_NAMES = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}


class Fault(StrEnum):
    """What may be wrong with a post."""

    NONE = "none"
    SIGNATURE = "signature"
    TOPIC = "topic"
    #: The certificate lies on another host, in another path, comes with HTTP or through a redirect.
    HOST = "host"
    PATH = "path"
    PLAIN = "plain"
    REDIRECT = "redirect"
    EXPIRED = "expired"
    NOT_YET = "not-yet"
    #: The message was changed after it was signed.
    CHANGED = "changed"
    #: The certificate's host does not answer as it should.
    AWAY = "away"
    GARBAGE = "garbage"


@dataclass(frozen=True, slots=True)
class Signer:
    """A key and its certificate."""

    key: rsa.RSAPrivateKey
    certificate: bytes


@dataclass
class Sns:
    """Runs as ``async with``. ``authority`` is the PEM file that trusts its HTTPS; ``host`` is what it calls itself."""

    directory: Path
    topic: str = TOPIC
    version: str = "2"
    #: Confirmations that came.
    confirmed: list[str] = field(default_factory=list)
    #: Certificates that were asked for, by path.
    asked: list[str] = field(default_factory=list)
    away: bool = False

    @property
    def host(self) -> str:
        """Host and port, as they stand in its addresses."""
        return f"127.0.0.1:{self.port}"

    @property
    def authority(self) -> Path:
        """The PEM file to trust."""
        return self.directory / "sns-authority.pem"

    async def __aenter__(self) -> "Sns":
        now = datetime.now(UTC)
        day = timedelta(days=1)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._signers = {
            Fault.NONE: _signer("good", now - day, now + day),
            Fault.EXPIRED: _signer("good", now - 2 * day, now - day),
            Fault.NOT_YET: _signer("good", now + day, now + 2 * day),
            Fault.SIGNATURE: _signer("somebody else's", now - day, now + day),
        }
        web = _signer("web", now - day, now + day, web=True)
        self.authority.write_bytes(web.certificate)
        key_file = self.directory / "sns-key.pem"
        key_file.touch(mode=0o600)
        key_file.write_bytes(
            web.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority, key_file)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    def notification(
        self, message: Mapping[str, object] | str, *, fault: Fault = Fault.NONE, subject: str | None = None
    ) -> bytes:
        """The body of a post with an SES notice (or other words) in it."""
        if fault is Fault.GARBAGE:
            return secrets.token_bytes(200)
        text = message if isinstance(message, str) else json.dumps(message)
        post = {"Type": "Notification", "Message": text} | ({"Subject": subject} if subject is not None else {})
        return self._posted(post, fault)

    def confirmation(self, *, fault: Fault = Fault.NONE, url: str = "") -> bytes:
        """The body of a post that asks to confirm the subscription."""
        token = secrets.token_hex(16)
        topic = self.topic
        post = {
            "Type": "SubscriptionConfirmation",
            "Message": f"You have chosen to subscribe to the topic {topic}.",
            "Token": token,
            "SubscribeURL": url or f"https://{self.host}/?Action=ConfirmSubscription&TopicArn={topic}&Token={token}",
        }
        return self._posted(post, fault)

    async def post(self, url: str, body: bytes, *, authority: Path | None) -> int:
        """Send a body as SNS does; the answer's status. ``authority`` signed the receiver's certificate."""
        context = ssl.create_default_context(cafile=str(authority) if authority is not None else None)
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            headers = {"Content-Type": "text/plain; charset=UTF-8", "User-Agent": "Amazon Simple Notification Service"}
            return (await client.post(url, content=body, headers=headers)).status_code

    def _posted(self, post: dict[str, str], fault: Fault) -> bytes:
        post |= {
            "MessageId": secrets.token_hex(16),
            "TopicArn": self.topic if fault is not Fault.TOPIC else self.topic + "-of-somebody-else",
            "Timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.000Z}",
            "SignatureVersion": self.version,
            "SigningCertURL": self._certificate_url(fault),
            "UnsubscribeURL": f"https://{self.host}/?Action=Unsubscribe",
        }
        signed = "".join(f"{name}\n{post[name]}\n" for name in _NAMES[post["Type"]] if name in post).encode()
        digest: hashes.HashAlgorithm = hashes.SHA1() if self.version == "1" else hashes.SHA256()  # noqa: S303
        signer = self._signers.get(fault, self._signers[Fault.NONE])
        post["Signature"] = base64.b64encode(signer.key.sign(signed, padding.PKCS1v15(), digest)).decode()
        if fault is Fault.CHANGED:
            post["Message"] += " "
        return json.dumps(post).encode()

    def _certificate_url(self, fault: Fault) -> str:
        name = {Fault.EXPIRED: "expired", Fault.NOT_YET: "not-yet", Fault.REDIRECT: "redirect", Fault.AWAY: "away"}
        path = f"SimpleNotificationService-{name.get(fault, 'good')}.pem"
        if fault is Fault.HOST:
            return f"https://localhost:{self.port}/{path}"
        if fault is Fault.PATH:
            return f"https://{self.host}/topics/../{path}?x=1"
        return f"http{'' if fault is Fault.PLAIN else 's'}://{self.host}/{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            target = request.split(b" ", 2)[1].decode("ascii", errors="replace")
            status, body, extra = self._answer(target)
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n".encode()
            )
            writer.write(body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, target: str) -> tuple[str, bytes, str]:
        if "Action=ConfirmSubscription" in target:
            self.confirmed.append(target)
            return "200 OK", b"<ConfirmSubscriptionResponse/>", ""
        self.asked.append(target)
        name = target.rpartition("-")[2].partition(".")[0] if "not-yet" not in target else "not-yet"
        if self.away or name == "away":
            return "503 Service Unavailable", b"", ""
        if name == "redirect":
            return "302 Found", b"", f"Location: https://{self.host}/SimpleNotificationService-good.pem\r\n"
        which = {"expired": Fault.EXPIRED, "not-yet": Fault.NOT_YET, "good": Fault.NONE}.get(name)
        return ("404 Not Found", b"", "") if which is None else ("200 OK", self._signers[which].certificate, "")


def bounce(
    remote_id: str, source: str, address: str, *, kind: str = "Permanent", subtype: str = "General", feedback: str,
    **recipient: str,
) -> dict[str, object]:  # fmt: skip
    """SES's notice of a bounce. ``recipient``: action, status, diagnosticCode."""
    return {
        "notificationType": "Bounce",
        "bounce": {
            "bounceType": kind,
            "bounceSubType": subtype,
            "bouncedRecipients": [{"emailAddress": address, **recipient}],
            "timestamp": _now(),
            "feedbackId": feedback,
            "reportingMTA": "dsn; a8-70.smtp-out.amazonses.com",
        },
        "mail": _mail(remote_id, source, address),
    }


def complaint(remote_id: str, source: str, address: str, *, feedback: str, kind: str = "abuse") -> dict[str, object]:
    """SES's notice that somebody called a mail unwanted."""
    return {
        "notificationType": "Complaint",
        "complaint": {
            "complainedRecipients": [{"emailAddress": address}],
            "timestamp": _now(),
            "feedbackId": feedback,
            "complaintFeedbackType": kind,
            "userAgent": "AnyCompany Feedback Loop (V0.01)",
        },
        "mail": _mail(remote_id, source, address),
    }


def delivery(remote_id: str, source: str, address: str) -> dict[str, object]:
    """SES's notice that the recipient's server took a mail."""
    return {
        "notificationType": "Delivery",
        "delivery": {
            "timestamp": _now(),
            "recipients": [address],
            "smtpResponse": "250 ok:  Message 64111812 accepted",
        },
        "mail": _mail(remote_id, source, address),
    }


def _mail(remote_id: str, source: str, address: str) -> dict[str, object]:
    return {"timestamp": _now(), "messageId": remote_id, "source": source, "destination": [address]}


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.000Z}"


@cache
def _key(_which: str) -> rsa.RSAPrivateKey:
    """Making a key takes a tenth of a second, so a process makes each once."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _signer(which: str, good_from: datetime, good_until: datetime, *, web: bool = False) -> Signer:
    key = _key(which)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1" if web else "sns.amazonaws.com")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(good_from)
        .not_valid_after(good_until)
    )
    if web:
        names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = builder.sign(key, hashes.SHA256())
    return Signer(key, made.public_bytes(serialization.Encoding.PEM))
