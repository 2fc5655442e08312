"""Signing keys: made, kept in files that only their holder can read, and their public halves as files to carry.

A private key is PKCS #8, encrypted when there is a passphrase. A key in a token or anything else that cryptography's
interface fits becomes a signer the same way.
"""

import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from firmware import durable
from firmware.errors import KeyFileError
from firmware.fields import HASH, read_object, write_object
from firmware.keymaterial import HOLDER

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
KINDS = ("ed25519", "ecdsa")

FORMAT = 1
_KIND = "kyoten-firmware-key"
PUBLIC_MAX_BYTES = 16 * 1024
#: Shorter ones are guessed once the file was copied.
PASSPHRASE_MIN_CHARACTERS = 12


def make(kind: str) -> PrivateKey:
    """A new key of one of `KINDS`. Raises KeyError: of no known kind."""
    makers: dict[str, Callable[[], PrivateKey]] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    }
    return makers[kind]()


def write(path: Path, key: PrivateKey, passphrase: str | None) -> None:
    """Keep a key in a new file (mode 0600). Raises KeyFileError: it exists, a short passphrase, cannot be written."""
    if passphrase is not None and len(passphrase) < PASSPHRASE_MIN_CHARACTERS:
        raise KeyFileError("firmware.passphrase-short", minimum=PASSPHRASE_MIN_CHARACTERS)
    if path.exists():
        raise KeyFileError("firmware.key-exists", path=str(path))
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    content = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    try:
        durable.make_directory(path.parent, mode=0o700)
        durable.write(path, content, mode=0o600)
    except OSError as error:
        raise KeyFileError("firmware.key-unwritable", path=str(path), reason=str(error.strerror)) from None


def read(path: Path, ask: Callable[[], str] | None) -> PrivateKey:
    """The key in a file. ``ask``: called for the passphrase if the key is encrypted; None: nobody can be asked.

    Raises KeyFileError: missing, open to others, damaged, of another kind, wrong passphrase.
    """
    content = read_secret(path)
    passphrase: bytes | None = None
    if b"-----BEGIN ENCRYPTED" in content:
        if ask is None:
            raise KeyFileError("firmware.key-encrypted", path=str(path))
        passphrase = ask().encode()
    try:
        key = serialization.load_pem_private_key(content, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        wrong = "firmware.key-passphrase" if passphrase is not None else "firmware.key-damaged"
        raise KeyFileError(wrong, path=str(path)) from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise KeyFileError("firmware.key-kind", path=str(path))


def read_secret(path: Path) -> bytes:
    """A file that only its owner may read. Raises KeyFileError."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except FileNotFoundError:
        raise KeyFileError("firmware.key-missing", path=str(path)) from None
    except OSError as error:
        raise KeyFileError("firmware.key-unreadable", path=str(path), reason=str(error.strerror)) from None
    if mode & 0o077:
        raise KeyFileError("firmware.key-permissions", path=str(path), mode=f"{mode:04o}")
    return content


def signer(key: PrivateKey) -> Signer:
    """Whoever has the key can sign. The key may be in a token, as long as it has cryptography's interface."""
    return CryptoSigner(key, _public(key))


def public(key: PrivateKey, holder: str) -> Key:
    """The public half, with the name of whoever holds the private one."""
    made = _public(key)
    made.unrecognized_fields[HOLDER] = holder
    return made


def render_public(key: Key) -> bytes:
    """A file to carry; there is no secret in it."""
    return write_object(
        {
            "kind": _KIND,
            "format": FORMAT,
            "holder": key.unrecognized_fields[HOLDER],
            "keyid": key.keyid,
            "keytype": key.keytype,
            "scheme": key.scheme,
            "public": key.keyval["public"],
        }
    )


def parse_public(data: bytes) -> Key:
    """Read such a file. Raises ReleaseError: it is none, or its id is not its key's."""
    fields = read_object(data, maximum=PUBLIC_MAX_BYTES)
    if (fields.text("kind"), fields.number("format")) != (_KIND, FORMAT):
        fields.add("firmware.other-format", "format", known=FORMAT)
    holder = fields.name("holder")
    keyid = fields.matching("keyid", HASH, "firmware.not-a-hash")
    found = SSlibKey(
        keyid, fields.text("keytype"), fields.text("scheme"), {"public": fields.text("public")}, {HOLDER: holder}
    )
    fields.end()
    fields.problems.finish()
    if _computed_id(found) != keyid:
        fields.add("firmware.key-id", "keyid")
    fields.problems.finish()
    return found


def _computed_id(key: SSlibKey) -> str | None:
    try:
        if key.scheme == "ed25519":
            loaded: object = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
        else:
            loaded = serialization.load_pem_public_key(key.keyval["public"].encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(loaded, ed25519.Ed25519PublicKey) or (
        isinstance(loaded, ec.EllipticCurvePublicKey) and isinstance(loaded.curve, ec.SECP256R1)
    ):
        return SSlibKey.from_crypto(loaded).keyid
    return None


def _public(key: PrivateKey) -> SSlibKey:
    return SSlibKey.from_crypto(key.public_key())
