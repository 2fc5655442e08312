"""DKIM signatures, verified by dkimpy's verifier with a DNS of our own."""

import base64
import os

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from scripted_smarthost import QUICK, Scripted, attempt

from cloudside.errors import ConfigurationError
from cloudside.mail.delivery.outcome import Verdict
from cloudside.mail.delivery.sending import ReturnPath, Sender
from cloudside.mail.delivery.signing import Signer
from cloudside.mail.delivery.smarthost import Sessions
from cloudside.messages import error_text

BODY = "Pump 3 stopped: 故障  \r\n.dot\r\n\r\n\r\n".encode() + b"\xff" * 2000 + b"\r\n"
HEAD = (
    b"Received: from plc ([10.1.2.3])\r\n\tby relay.test with ESMTP id 1;\r\n\tSun, 22 Nov 2026 06:00:00 +0000\r\n"
    b"From: plc@site.test\r\nTo: ops@customer.test\r\nSubject: Fault 7 =?utf-8?b?5pWF6Zqc?=\r\n"
    b"Date: Sun, 22 Nov 2026 06:00:00 +0000\r\nMessage-ID: <1@site.test>\r\n"
)


@pytest.fixture(scope="session")
def keys():
    return {
        "rsa": rsa.generate_private_key(65537, 2048),
        "other": rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "ec": ec.generate_private_key(ec.SECP256R1()),
    }


def pem(key, password=None):
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


def dns(key):
    """The TXT record of a key."""
    public = key.public_key()
    if isinstance(key, ed25519.Ed25519PrivateKey):
        raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        record = b"v=DKIM1; k=ed25519; p=" + base64.b64encode(raw)
    else:
        raw = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(raw)
    return lambda name, timeout=5: record if name == b"s1._domainkey.kyoten.test." else None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "dkim.pem"


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
@pytest.mark.parametrize("in_file", [False, True])
def test_a_signature_holds_and_breaks_when_it_should(keys, path, tmp_path, kind, in_file):
    path.write_bytes(pem(keys[kind]))
    body = BODY
    if in_file:
        body = tmp_path / "body"
        body.write_bytes(BODY)
    field = Signer("kyoten.test", "s1", path).signature(HEAD, body)
    assert field.startswith(b"DKIM-Signature: ") and field.endswith(b"\r\n") and b"\n\n" not in field
    mail = field + HEAD + b"\r\n" + BODY
    good = dns(keys[kind])
    assert dkim.verify(mail, dnsfunc=good)
    assert not dkim.verify(mail.replace(b"Pump 3", b"Pump 4"), dnsfunc=good)
    assert not dkim.verify(mail.replace(b"Fault 7", b"Fault 8"), dnsfunc=good)
    assert not dkim.verify(field + b"From: boss@site.test\r\n" + HEAD + b"\r\n" + BODY, dnsfunc=good)
    assert not dkim.verify(field + b"Subject: another\r\n" + HEAD + b"\r\n" + BODY, dnsfunc=good)
    assert not dkim.verify(mail, dnsfunc=dns(keys["other"]))


def test_what_ses_writes_anew_is_not_signed(keys, path):
    path.write_bytes(pem(keys["rsa"]))
    field = Signer("kyoten.test", "s1", path).signature(HEAD, BODY)
    changed = HEAD.replace(b"<1@site.test>", b"<0100-ses@email.amazonses.com>").replace(
        b"06:00:00 +0000\r\nM", b"07:00:00 +0000\r\nM"
    )
    assert changed != HEAD
    assert dkim.verify(field + b"Received: by ses\r\n" + changed + b"\r\n" + BODY, dnsfunc=dns(keys["rsa"]))


async def test_mail_goes_out_signed(keys, path, tmp_path):
    path.write_bytes(pem(keys["rsa"]))
    async with Scripted().running() as host:
        sessions = Sessions(host.smarthost(tmp_path, None), "relay.test", QUICK)
        sender = Sender(sessions, ReturnPath((b"k" * 32,), "bounces.test"), Signer("kyoten.test", "s1", path))
        assert (await sender.send(attempt(1, head=HEAD, body=BODY))).verdict is Verdict.DELIVERED
        sessions.close()
    (taken,) = host.taken
    assert taken.content.endswith(HEAD + b"\r\n" + BODY) and dkim.verify(taken.content, dnsfunc=dns(keys["rsa"]))
    assert taken.parameters.startswith(f"SIZE={len(taken.content)} ")


def test_a_changed_key_is_taken_up_and_a_broken_one_is_not(keys, path):
    path.write_bytes(pem(keys["rsa"]))
    signer = Signer("kyoten.test", "s1", path)

    def signs_with(key):
        return dkim.verify(signer.signature(HEAD, BODY) + HEAD + b"\r\n" + BODY, dnsfunc=dns(keys[key]))

    def written(data, at):
        path.write_bytes(data)
        os.utime(path, (at, at))

    assert signs_with("rsa")
    written(pem(keys["other"]), 1_000_000_000)
    assert signs_with("other")
    written(b"no key", 1_100_000_000)
    assert signs_with("other")
    path.unlink()
    assert signs_with("other")
    written(pem(keys["ed25519"]), 1_200_000_000)
    assert signs_with("ed25519")


@pytest.mark.parametrize("content", [b"", b"no key", "ec", "encrypted", "public", None])
def test_a_key_that_is_none_is_a_clear_configuration_error(keys, path, content):
    if content == "ec":
        content = pem(keys["ec"])
    elif content == "encrypted":
        content = pem(keys["rsa"], b"secret")
    elif content == "public":
        content = (
            keys["rsa"]
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as error:
        Signer("kyoten.test", "s1", path)
    assert error.value.key == ("delivery.dkim-unreadable" if content is None else "delivery.dkim-malformed")
    text = error_text(error.value, language="en")
    assert str(path) in text and "PRIVATE" not in text


def test_names_are_ascii(keys, path):
    path.write_bytes(pem(keys["rsa"]))
    with pytest.raises(ConfigurationError):
        Signer("拠点.test", "s1", path)


@pytest.mark.parametrize(
    "head", [b"", b"Subject: no From\r\n", b"From : x@y.test\r\n", b"\xff\r\n", b" folded: first\r\n"]
)
def test_a_mail_that_cannot_be_signed_goes_out_without(keys, path, head):
    path.write_bytes(pem(keys["rsa"]))
    assert Signer("kyoten.test", "s1", path).signature(head, BODY) == b""
