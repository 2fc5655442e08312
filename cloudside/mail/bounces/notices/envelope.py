"""What Amazon SNS posts: parsed and its signature checked. Pure.

Source: "Verifying the signatures of Amazon SNS messages" in the SNS developer guide: named values in a fixed order,
each name and each value on a line of its own, signed with RSA (PKCS#1 v1.5) over SHA-1 (version 1) or SHA-256 (2).
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from cloudside.errors import InputError, RefusedError

#: SNS posts at most 256 KiB of message; as JSON inside JSON it grows by its quotes and escapes.
BODY_MAX_BYTES = 640 * 1024

NOTIFICATION = "Notification"
CONFIRM = "SubscriptionConfirmation"
CANCELLED = "UnsubscribeConfirmation"

_SIGNED = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    CONFIRM: ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    CANCELLED: ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
_HASHES: dict[str, hashes.HashAlgorithm] = {"1": hashes.SHA1(), "2": hashes.SHA256()}  # noqa: S303 - SNS's version 1
_OPTIONAL = "Subject"
_TOPIC = re.compile(r"arn:(aws|aws-cn|aws-us-gov):sns:([a-z0-9-]{1,30}):\d{12}:[A-Za-z0-9_.-]{1,256}")
_CERTIFICATE_PATH = re.compile(r"/[A-Za-z0-9_-]{1,200}\.pem")


@dataclass(frozen=True, slots=True)
class Envelope:
    """One post. ``signed`` is what its signature is over; ``subscribe_url`` is empty for a notification."""

    kind: str
    message_id: str
    topic: str
    message: str
    certificate_url: str
    subscribe_url: str
    version: str
    signature: bytes
    signed: bytes


def parse(raw: bytes) -> Envelope:
    """Raises InputError: no SNS message."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise InputError("bounces.notice-malformed", reason="no JSON") from None
    if not isinstance(found, dict):
        raise InputError("bounces.notice-malformed", reason="no JSON object")
    kind = found.get("Type")
    names = _SIGNED.get(kind) if isinstance(kind, str) else None
    if names is None:
        raise InputError("bounces.notice-malformed", reason="no known Type")
    wanted = {*names, "SignatureVersion", "Signature", "SigningCertURL"} - {_OPTIONAL}
    for name in sorted(wanted):
        if not isinstance(found.get(name), str):
            raise InputError("bounces.notice-malformed", reason=f"no {name}")
    present = [name for name in names if isinstance(found.get(name), str)]
    if found["SignatureVersion"] not in _HASHES:
        raise InputError("bounces.notice-malformed", reason="unknown SignatureVersion")
    try:
        signature = base64.b64decode(found["Signature"], validate=True)
        signed = "".join(f"{name}\n{found[name]}\n" for name in present).encode()
    except (binascii.Error, ValueError):
        raise InputError("bounces.notice-malformed", reason="Signature or text not decodable") from None
    return Envelope(
        kind=str(kind),
        message_id=found["MessageId"],
        topic=found["TopicArn"],
        message=found["Message"],
        certificate_url=found["SigningCertURL"],
        subscribe_url=found.get("SubscribeURL", "") if kind != NOTIFICATION else "",
        version=found["SignatureVersion"],
        signature=signature,
        signed=signed,
    )


def verify(envelope: Envelope, key: RSAPublicKey) -> None:
    """Raises RefusedError: not signed with this key."""
    try:
        key.verify(envelope.signature, envelope.signed, padding.PKCS1v15(), _HASHES[envelope.version])
    except InvalidSignature:
        raise RefusedError("bounces.notice-signature", topic=envelope.topic) from None


def hosts_of(topics: tuple[str, ...]) -> tuple[str, ...]:
    """The hosts that sign for these topics: ``sns.<region>.amazonaws.com``, in China with another ending."""
    found = []
    for topic in topics:
        named = _TOPIC.fullmatch(topic)
        if named is not None:
            ending = "amazonaws.com.cn" if named[1] == "aws-cn" else "amazonaws.com"
            found.append(f"sns.{named[2]}.{ending}")
    return tuple(dict.fromkeys(found))


def require_certificate_url(url: str, hosts: tuple[str, ...]) -> None:
    """Raises RefusedError: not a certificate at one of our hosts."""
    parts = _parts(url, hosts)
    if not _CERTIFICATE_PATH.fullmatch(parts[0]) or parts[1]:
        raise RefusedError("bounces.notice-host", host=url[:100])


def require_confirmation_url(url: str, topic: str, hosts: tuple[str, ...]) -> None:
    """Raises RefusedError: not the confirmation of this topic at one of our hosts."""
    path, query = _parts(url, hosts)
    asked = parse_qs(query)
    if path not in ("", "/") or asked.get("Action") != ["ConfirmSubscription"] or asked.get("TopicArn") != [topic]:
        raise RefusedError("bounces.notice-host", host=url[:100])


def _parts(url: str, hosts: tuple[str, ...]) -> tuple[str, str]:
    """Path and query of an HTTPS address at one of the hosts, written as they are configured."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise RefusedError("bounces.notice-host", host=url[:100]) from None
    if parts.scheme != "https" or parts.netloc not in hosts or parts.fragment or not url.isascii():
        raise RefusedError("bounces.notice-host", host=parts.netloc[:100] or "-")
    return parts.path, parts.query
