"""A holder's key on the command line: a file or a PKCS#11 URI; passphrase and PIN are asked for, or are in a file."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloudside.errors import ConfigurationError, InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

    from firmware.repository.keys import PrivateKey

KeyOption = Annotated[
    str, typer.Option("--key", metavar="FILE|URI", help="The holder's key: a file, or a PKCS#11 URI (pkcs11:...).")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="File (mode 0600) with the key's passphrase in its first line; else asked."),
]


def open_signer(where: str, passphrase_file: Path | None) -> "Signer":
    """Raises KyotenError: the key is not to be had."""
    from cloudside.fleet.releases import translated
    from firmware.repository import keys

    with translated():
        return keys.signer(_open(where, passphrase_file))


def make_key(where: str, kind: str, passphrase_file: Path | None, holder: str, *, encrypted: bool) -> "Key":
    """A new key at ``where``; its public half. In a token it is EC P-256. Raises KyotenError."""
    from cloudside.fleet.releases import translated
    from firmware.repository import keys

    with translated():
        if where.startswith("pkcs11:"):
            return keys.public(_in_token(where, passphrase_file, make=True), holder)
        passphrase = _new_passphrase(Path(where), passphrase_file) if encrypted else None
        made = keys.make(kind)
        keys.write(Path(where), made, passphrase)
        return keys.public(made, holder)


def read_public(paths: Sequence[Path]) -> "list[Key]":
    """Public halves from their files. Raises InputError."""
    from cloudside.fleet.releases import translated
    from firmware.repository import keys

    found = []
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError("cli.unreadable-file", path=str(path), reason=str(error.strerror)) from None
        with translated():
            found.append(keys.parse_public(content))
    return found


def _open(where: str, passphrase_file: Path | None) -> "PrivateKey":
    from firmware.repository import keys

    if where.startswith("pkcs11:"):
        return _in_token(where, passphrase_file, make=False)
    path = Path(where)
    return keys.read(path, lambda: _from(passphrase_file, path, "firmware.ask-passphrase"))


def _in_token(where: str, pin_file: Path | None, *, make: bool) -> "PrivateKey":
    from cloudside.pki import token_key

    uri = token_key.parse(where)
    pin = _from(pin_file or uri.pin_source, Path(uri.token or "token"), "firmware.ask-pin")
    try:
        return token_key.open_key(uri, pin, make=make)
    except ConfigurationError as error:
        if error.key != "pki.root-absent":  # that text speaks of the PKI's root
            raise
        named = uri.text.partition("?")[0]
        raise ConfigurationError("firmware.key-token", where=named, reason=error.params["reason"]) from None


def _new_passphrase(path: Path, passphrase_file: Path | None) -> str:
    if passphrase_file is not None:
        return _from(passphrase_file, path, "")
    first = _from(None, path, "firmware.ask-new-passphrase")
    if first != _from(None, path, "firmware.ask-passphrase-again"):
        raise InputError("firmware.passphrases-differ")
    return first


def _from(file: Path | None, path: Path, question: str) -> str:
    from firmware.repository import keys

    if file is not None:
        return keys.read_secret(file).decode("utf-8", "replace").partition("\n")[0].rstrip("\r")
    if not sys.stdin.isatty():
        raise InputError("firmware.no-passphrase", path=str(path))
    return str(typer.prompt(text(question, {"path": str(path)}), hide_input=True, err=True))
