"""Which key it is, however it is written down: TUF counts key ids, and one key under two ids must count once. Pure."""

from collections.abc import Iterable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.signer import Key
from tuf.api.metadata import Root

#: What may sign here. P-256 is what smart cards can do.
SCHEMES = {"ed25519": ed25519.Ed25519PublicKey, "ecdsa-sha2-nistp256": ec.EllipticCurvePublicKey}

#: The field of a key in the root metadata that says whose it is.
HOLDER = "x-kyoten-holder"


def material(key: Key) -> bytes:
    """The public key as DER, the same for all ways to write it. Raises ValueError: no key of a kind that is used."""
    public = key.keyval.get("public")
    if not isinstance(public, str) or key.scheme not in SCHEMES:
        raise ValueError(key.scheme)
    try:
        found = (
            ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
            if key.scheme == "ed25519"
            else serialization.load_pem_public_key(public.encode())
        )
    except (UnsupportedAlgorithm, TypeError) as error:
        raise ValueError(key.scheme) from error
    if not isinstance(found, SCHEMES[key.scheme]):
        raise ValueError(key.scheme)
    return found.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def twins(keys: Iterable[Key]) -> set[str]:
    """Ids of keys that are one key with an earlier one of these. Raises ValueError as `material` does."""
    seen: set[bytes] = set()
    found = set()
    for key in keys:
        der = material(key)
        if der in seen:
            found.add(key.keyid)
        seen.add(der)
    return found


def has_twins(root: Root) -> str | None:
    """The first role that lists one key twice. Raises ValueError as `material` does."""
    for name, role in root.roles.items():
        if twins(root.keys[keyid] for keyid in role.keyids if keyid in root.keys):
            return name
    return None


def holder(key: Key) -> str:
    """Whose key it is, or the beginning of its id."""
    name = key.unrecognized_fields.get(HOLDER)
    return name if isinstance(name, str) and name else key.keyid[:12]
