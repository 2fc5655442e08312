"""A private key in a PKCS#11 token, named by a URI (RFC 7512), as a key that certificates can be signed with.

The one place where python-pkcs11 is met. The key never leaves the token; a session is opened for each signature, so the
token may be absent at all other times. The PIN comes from the file that pin-source names and is kept nowhere.
"""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import unquote, unquote_to_bytes

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cloudside.errors import ConfigurationError

_one_at_a_time = threading.Lock()

_PATH = frozenset({"token", "serial", "object", "id", "type"})
_QUERY = frozenset({"module-path", "pin-source"})


@dataclass(frozen=True, slots=True)
class TokenUri:
    """What of RFC 7512 is understood. ``pin_source``: a file with the PIN alone; None: the token asks for none."""

    text: str
    module: Path
    token: str | None
    serial: bytes | None
    label: str | None
    key_id: bytes | None
    pin_source: Path | None


def parse(text: str) -> TokenUri:
    """Read a URI. Raises ConfigurationError: not one, an attribute we do not know, or no module-path."""
    if not text.startswith("pkcs11:"):
        _refuse(text, "pkcs11:")
    path, _, query = text.removeprefix("pkcs11:").partition("?")
    found: dict[str, str] = {}
    for part, known in [(part, _PATH) for part in path.split(";")] + [(part, _QUERY) for part in query.split("&")]:
        if not part:
            continue
        name, equals, value = part.partition("=")
        if name not in known or not equals or name in found:
            # pin-value is one of them: a configuration is no place for a secret.
            _refuse(text, name)
        found[name] = value
    if "module-path" not in found:
        _refuse(text, "module-path")
    if not {"object", "id"} & set(found):
        _refuse(text, "object")
    if unquote(found.get("type", "private")) != "private":
        _refuse(text, "type")
    pin_source = unquote(found["pin-source"]).removeprefix("file:") if "pin-source" in found else None
    return TokenUri(
        text=text,
        module=Path(unquote(found["module-path"])),
        token=unquote(found["token"]) if "token" in found else None,
        serial=unquote_to_bytes(found["serial"]) if "serial" in found else None,
        label=unquote(found["object"]) if "object" in found else None,
        key_id=unquote_to_bytes(found["id"]) if "id" in found else None,
        pin_source=None if pin_source is None else Path(pin_source),
    )


class TokenKey(ec.EllipticCurvePrivateKey):
    """A key in a token. It signs with ECDSA and SHA-256 and does nothing else."""

    def __init__(self, uri: TokenUri, pin: str | None, public_key: ec.EllipticCurvePublicKey) -> None:
        self._uri, self._pin, self._public_key = uri, pin, public_key

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """DER, as X.509 has it. Raises ConfigurationError: the token is absent or refuses."""
        if not isinstance(signature_algorithm, ec.ECDSA) or not isinstance(
            signature_algorithm.algorithm, hashes.SHA256
        ):
            raise TypeError("only ECDSA with SHA-256")
        library = _library()
        with _session(self._uri, self._pin) as session:
            found = session.get_key(
                object_class=library.ObjectClass.PRIVATE_KEY, label=self._uri.label, id=self._uri.key_id
            )
            raw = found.sign(hashlib.sha256(bytes(data)).digest(), mechanism=library.Mechanism.ECDSA)
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half, read when the key was opened."""
        return self._public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        """The key's curve."""
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        """Bits."""
        return self._public_key.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Not for an authority's key."""
        _never()

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """The key never leaves the token."""
        _never()

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> bytes:
        """The key never leaves the token."""
        _never()

    def __copy__(self) -> "TokenKey":
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> "TokenKey":
        return self


def open_key(uri: TokenUri, pin: str | None, *, make: bool = False) -> TokenKey:
    """The key that a URI names; with ``make`` a new EC P-256 pair in the token when it has none.

    Raises ConfigurationError: no library, token or key, or a wrong PIN.
    """
    library = _library()
    with _session(uri, pin, writing=make) as session:
        wanted = {"object_class": library.ObjectClass.PUBLIC_KEY, "label": uri.label, "id": uri.key_id}
        try:
            public = session.get_key(**wanted)
        except library.NoSuchKey:
            if not make:
                raise
            from pkcs11.util.ec import encode_named_curve_parameters

            parameters = session.create_domain_parameters(
                library.KeyType.EC,
                {library.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")},
                local=True,
            )
            public, _ = parameters.generate_keypair(store=True, label=uri.label, id=uri.key_id or b"\x01")
        from pkcs11.util.ec import encode_ec_public_key

        read = serialization.load_der_public_key(encode_ec_public_key(public))
    if not isinstance(read, ec.EllipticCurvePublicKey):
        raise ConfigurationError("pki.root-absent", where=uri.text, reason="no EC key")
    return TokenKey(uri, pin, read)


def _library() -> ModuleType:
    try:
        import pkcs11
    except ImportError:
        raise ConfigurationError("pki.no-pkcs11") from None
    return pkcs11


@contextmanager
def _session(uri: TokenUri, pin: str | None, *, writing: bool = False) -> Iterator[Any]:
    library = _library()
    _one_at_a_time.acquire()  # looking for the token anew ends the sessions of others
    try:
        module = library.lib(str(uri.module))
        module.reinitialize()  # so that a token that was plugged in since is seen
        token = module.get_token(token_label=uri.token, token_serial=uri.serial)
        with token.open(user_pin=pin, rw=writing) as session:
            yield session
    except (library.PKCS11Error, RuntimeError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise ConfigurationError("pki.root-absent", where=uri.text, reason=reason) from None
    finally:
        _one_at_a_time.release()


def _refuse(text: str, name: str) -> NoReturn:
    raise ConfigurationError("pki.token-uri", uri=re.split(r"\?|pin-value", text)[0], name=name[:40])


def _never() -> NoReturn:
    raise TypeError("a key in a token signs and does nothing else")
