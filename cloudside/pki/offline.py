"""Authorities below a root that lives on another machine: a request goes there, an answer comes back.

Both are JSON without a secret. The authority's key is made here and stays here, the root's stays there. The root signs
its next revocation list with each answer, because nobody else can.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_network
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from sqlalchemy.orm import Session

from cloudside.errors import InputError
from cloudside.pki import address_blocks, authority, issuing, requests, revocation_lists
from cloudside.pki.authority import Authority, Network
from cloudside.pki.store import KeyStore
from cloudside.registry import certificates

FORMAT = 1
#: Requests and answers are a few kB; a root that has revoked a thousand authorities has 100 kB.
FILE_MAX_BYTES = 1_000_000


def request(session: Session, store: KeyStore, *, name: str | None, block: Network | None, now: datetime) -> str:
    """What the root is to sign: the authority ``name`` for ``block``, or with None only its next revocation list.

    Raises InputError: it is there already. ConfigurationError: PKI not initialised, or the key cannot be written.
    """
    root = issuing.load_authority_certificate(session, issuing.ROOT)
    document: dict[str, Any] = {
        "format": FORMAT,
        "root_sha256": root.fingerprint(hashes.SHA256()).hex(),
        "list_number": revocation_lists.next_number(session, issuing.ROOT),
        "revoked": [
            [record.serial, record.revoked_at.isoformat()]
            for record in certificates.revoked_by(session, authority=issuing.ROOT, now=now)
            if record.revoked_at is not None
        ],
        "public_url": store.public_url,
        "name": name,
    }
    if name is not None:
        if issuing.find_authority_certificate(session, name) is not None:
            raise InputError("pki.authority-exists", authority=name)
        key = store.read_or_make_key(name)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        document |= {"block": str(block), "csr": csr.public_bytes(serialization.Encoding.PEM).decode()}
    return json.dumps(document, indent=2) + "\n"


def read(content: bytes) -> dict[str, Any]:
    """A request or an answer. Raises InputError: it is neither."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError("pki.offline-damaged")
    return document


def sign(asked: Mapping[str, Any], root: Authority, *, now: datetime) -> str:
    """The answer, made where the root is; no registry is needed. Raises InputError: damaged, or for another root."""
    try:
        if asked["root_sha256"] != root.certificate.fingerprint(hashes.SHA256()).hex():
            raise InputError("pki.other-root")
        signer = Authority(root.name, root.certificate, root.key, str(asked["public_url"]))
        revoked = [(int(serial, 16), datetime.fromisoformat(at)) for serial, at in asked["revoked"]]
        number = int(asked["list_number"])
        name = asked["name"]
        made = None
        if name is not None:
            key = requests.read_key(str(asked["csr"]).encode())
            block = ip_network(str(asked["block"]))
            made = authority.make_authority(
                signer, name=str(name), block=block, key=key, now=now, serial=issuing.new_serial()
            )
    except (KeyError, TypeError, ValueError):
        raise InputError("pki.offline-damaged") from None
    fresh = authority.make_revocation_list(
        signer, revoked=revoked, number=number, now=now, lifetime=authority.ROOT_LIST_LIFETIME
    )
    answer = {
        "format": FORMAT,
        "name": name,
        "revocation_list": fresh.public_bytes(serialization.Encoding.PEM).decode(),
        "certificate": None if made is None else made.public_bytes(serialization.Encoding.PEM).decode(),
    }
    return json.dumps(answer, indent=2) + "\n"


def install(
    session: Session, store: KeyStore, answer: Mapping[str, Any], *, block: Network | None, now: datetime
) -> str:
    """Take an answer in: the root's list, and the authority with its first list; returns its name, empty for none.

    The session must be a writing one. ``block``: what the authority must hold by the registry.
    Raises InputError: damaged, not signed by the root, for another key or block, or older than what is there.
    """
    root = issuing.load_authority_certificate(session, issuing.ROOT)
    try:
        fresh = x509.load_pem_x509_crl(str(answer["revocation_list"]).encode())
        number = fresh.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        name, pem = answer["name"], answer["certificate"]
        made = None if pem is None else x509.load_pem_x509_certificate(str(pem).encode())
        if made is not None:
            made.verify_directly_issued_by(root)
        held = None if made is None else address_blocks.read(made)
    except (KeyError, TypeError, ValueError, InvalidSignature, x509.ExtensionNotFound):
        raise InputError("pki.offline-damaged") from None
    if not fresh.is_signature_valid(root.public_key()) or fresh.next_update_utc is None:  # type: ignore[arg-type]
        raise InputError("pki.offline-damaged")
    if number >= revocation_lists.next_number(session, issuing.ROOT):
        certificates.keep_revocation_list(
            session,
            authority=issuing.ROOT,
            number=number,
            der=fresh.public_bytes(serialization.Encoding.DER),
            next_update=fresh.next_update_utc,
        )
    if made is None:
        return ""
    if issuing.find_authority_certificate(session, str(name)) is not None:
        raise InputError("pki.authority-exists", authority=str(name)[:63])
    key = store.read_key(str(name))
    if made.public_key() != key.public_key() or block is None or held != (block,):
        raise InputError("pki.offline-unfit", authority=str(name)[:63])
    issuing.take_in(session, store, Authority(str(name), made, key, store.public_url), now=now)
    return str(name)
