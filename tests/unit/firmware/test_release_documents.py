"""Release, module and key documents: read strictly, all problems at once, written in one way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from malicious_repository import a_module, a_release

from firmware import fields
from firmware.errors import FirmwareError, KeyFileError, ReleaseError
from firmware.release import (
    Delta,
    File,
    Release,
    agree,
    custom,
    module_custom,
    parse,
    parse_module,
    parse_slot_facts,
    release_path,
    render,
    render_module,
)
from firmware.repository import keys


def whole() -> Release:
    """A release with a delta."""
    from dataclasses import replace

    release = a_release(5)
    file = File("9" * 64 + ".delta", 300_000, "9" * 64, 262_144, ("1" * 64, "2" * 64))
    return replace(release, deltas=(Delta(4, "8" * 64, 4096, file, 64),))


def problems(document: object) -> set[tuple[str, str]]:
    with pytest.raises(ReleaseError) as caught:
        parse(json.dumps(document).encode())
    return {(one.key.removeprefix("firmware."), str(one.params["place"])) for one in caught.value.problems}


def changed(change: Callable[[Any], object]) -> set[tuple[str, str]]:
    document = json.loads(render(whole()))
    change(document)
    return problems(document)


def test_what_is_written_is_read_back() -> None:
    for release in (whole(), a_release(1)):
        assert parse(render(release)) == release
        assert render(parse(render(release))) == render(release)
    assert parse_module(render_module(a_module())) == a_module()
    assert release_path("x", "1.2") == "releases/x/1.2.json"
    said = {"hardware": "generic-x86-64", "version": "2026.5", "counter": 5, "minimum_from": 1, "delta_from": [4]}
    assert {**custom(whole()), **said} == custom(whole())
    assert custom(whole())["applicability"] == json.loads(render(whole()))["applicability"]
    assert (module_custom(a_module())["name"], module_custom(a_module())["counter"]) == ("quectel", 1)


def test_what_metadata_says_of_a_release_may_be_more_or_less_but_not_otherwise() -> None:
    known = custom(whole())
    assert agree({**known, "later": 1}, known) and agree({"counter": 5}, known)
    for name, other in (("counter", 6), ("delta_from", []), ("applicability", {}), ("minimum_from", 0)):
        assert not agree({**known, name: other}, known)
    assert not agree(None, known) and not agree([], known)


@pytest.mark.parametrize(
    ("change", "key", "place"),
    [
        (lambda d: d.pop("notes"), "missing-field", "notes"),
        (lambda d: d["slot"].pop("salt"), "missing-field", "slot.salt"),
        (lambda d: d.update(more=1), "unknown-field", "more"),
        (lambda d: d["deltas"][0]["file"].update(x=1), "unknown-field", "deltas[0].file.x"),
        (lambda d: d.update({"\x1b[31m": 1}), "unknown-field", "\\x1b[31m"),
        (lambda d: d.update(counter="5"), "wrong-type", "counter"),
        (lambda d: d.update(counter=5.0), "wrong-type", "counter"),
        (lambda d: d.update(counter=True), "wrong-type", "counter"),
        (lambda d: d.update(counter=None), "wrong-type", "counter"),
        (lambda d: d.update(counter=0), "out-of-range", "counter"),
        (lambda d: d.update(counter=1 << 31), "out-of-range", "counter"),
        (lambda d: d.update(counter=10**400), "out-of-range", "counter"),
        (lambda d: d.update(format=2), "other-format", "format"),
        (lambda d: d.update(hardware="../x"), "not-a-name", "hardware"),
        (lambda d: d.update(hardware="x\n"), "not-a-name", "hardware"),
        (lambda d: d.update(version="../1"), "not-a-version", "version"),
        (lambda d: d.update(version="1/2"), "not-a-version", "version"),
        (lambda d: d.update(version="1\n"), "not-a-version", "version"),
        (lambda d: d.update(created="2026-13-01T00:00:00Z"), "not-a-time", "created"),
        (lambda d: d.update(created="2026-11-22 09:30"), "not-a-time", "created"),
        (lambda d: d.update(notes="x" * 5000), "too-long", "notes"),
        (lambda d: d.update(notes="\ud800"), "not-text", "notes"),
        (lambda d: d.update(deltas={}), "wrong-type", "deltas"),
        (lambda d: d.update(deltas=[1]), "wrong-type", "deltas[0]"),
        (lambda d: d.update(deltas=[{}] * 65), "too-many", "deltas"),
        (lambda d: d.update(deltas=d["deltas"] * 2), "delta-twice", "deltas"),
        (lambda d: d["deltas"][0].update(from_sha256="f" * 64), "delta-from-itself", "deltas[0]"),
        (lambda d: d["full"].update(name="../../etc/passwd"), "not-a-file-name", "full.name"),
        (lambda d: d["full"].update(name="0" * 64), "name-not-content", "full.name"),
        (lambda d: d["full"].update(sha256="A" * 64), "not-a-hash", "full.sha256"),
        (lambda d: d["full"].update(chunks=[]), "chunk-count", "full.chunks"),
        (lambda d: d["full"].update(chunks=["x"]), "not-a-hash", "full.chunks[0]"),
        (lambda d: d["full"].update(chunk_bytes=0), "out-of-range", "full.chunk_bytes"),
        (lambda d: d["full"].update(size=10**12), "out-of-range", "full.size"),
        (lambda d: d["slot"].update(image_size=81921), "slot-size", "slot.image_size"),
        (lambda d: d["slot"].update(data_blocks=21), "slot-size", "slot.image_size"),
        (lambda d: d["applicability"].update(hardware=["other"]), "hardware-not-listed", "applicability.hardware"),
        (lambda d: d["applicability"].update(minimum_from=6), "minimum-above", "applicability.minimum_from"),
        (lambda d: d["applicability"].update(mains_power=1), "wrong-type", "applicability.mains_power"),
    ],
)
def test_each_thing_that_is_wrong_has_its_place(change: Callable[[Any], object], key: str, place: str) -> None:
    assert (key, place) in changed(change)


def test_all_that_is_wrong_is_told_at_once_and_no_more_than_a_log_bears() -> None:
    found = changed(lambda d: (d.pop("notes"), d.update(counter="x", more=1), d["slot"].update(salt="x")))
    assert found == {
        ("missing-field", "notes"),
        ("wrong-type", "counter"),
        ("unknown-field", "more"),
        ("not-a-hash", "slot.salt"),
    }
    assert len(changed(lambda d: d["full"].update(chunks=["x"] * 1000))) == fields.PROBLEMS_MAX


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (b"", "not-json"),
        (b"\xff\xfe", "not-json"),
        (b"[" * 100_000, "not-json"),
        (b'{"a": NaN}', "not-json"),
        (b'{"counter": ' + b"9" * 10_000 + b"}", "not-json"),
        (b"[]", "wrong-type"),
        (b'{"a": 1, "a": 2}', "field-twice"),
        (b'{"a": {"b": 1, "b": 2}}', "field-twice"),
        (b" " * (fields.DOCUMENT_MAX_BYTES + 1), "too-large"),
    ],
)
def test_what_is_no_document(data: bytes, key: str) -> None:
    for read in (parse, parse_module, parse_slot_facts):
        with pytest.raises(ReleaseError) as caught:
            read(data)
        assert caught.value.key == f"firmware.{key}"


def test_a_release_of_a_whole_gibibyte_with_many_deltas_fits() -> None:
    from dataclasses import replace

    big = File("9" * 64 + ".zst", 800 << 20, "9" * 64, 262_144, ("1" * 64,) * 3200)
    small = replace(big, size=40 << 20, chunks=("1" * 64,) * 160)
    deltas = tuple(Delta(4, f"{number:064x}", 4096, small, 64) for number in range(20))
    assert parse(render(replace(a_release(5), full=big, deltas=deltas))).full == big


def test_key_files(tmp_path: Path) -> None:
    for kind in keys.KINDS:
        key, path = keys.make(kind), tmp_path / f"{kind}.key"
        keys.write(path, key, "a long passphrase")
        assert path.stat().st_mode & 0o777 == 0o600 and b"ENCRYPTED" in path.read_bytes()
        read = keys.read(path, lambda: "a long passphrase")
        assert keys.signer(read).public_key.keyid == keys.signer(key).public_key.keyid
        public = keys.public(key, "hanako")
        assert keys.parse_public(keys.render_public(public)) == public
    plain = tmp_path / "plain.key"
    keys.write(plain, keys.make("ed25519"), None)
    keys.read(plain, None)


def test_key_files_that_cannot_be_used(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    def refused(action: Callable[[], object]) -> str:
        with pytest.raises(FirmwareError) as caught:
            action()
        assert isinstance(caught.value, KeyFileError)
        assert "passphrase" not in str(caught.value.params)
        return caught.value.key.removeprefix("firmware.")

    path = tmp_path / "k.key"
    assert refused(lambda: keys.write(path, keys.make("ed25519"), "short")) == "passphrase-short"
    assert not path.exists()
    keys.write(path, keys.make("ed25519"), "a long passphrase")
    assert refused(lambda: keys.write(path, keys.make("ed25519"), None)) == "key-exists"
    assert refused(lambda: keys.read(path, None)) == "key-encrypted"
    assert refused(lambda: keys.read(path, lambda: "another passphrase")) == "key-passphrase"
    assert refused(lambda: keys.read(tmp_path / "none", None)) == "key-missing"
    assert refused(lambda: keys.read(tmp_path, None)) == "key-unreadable"
    path.chmod(0o640)
    assert refused(lambda: keys.read(path, None)) == "key-permissions"
    path.chmod(0o600)
    path.write_bytes(b"nothing")
    assert refused(lambda: keys.read(path, None)) == "key-damaged"
    for other in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        path.write_bytes(
            other.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        assert refused(lambda: keys.read(path, None)) == "key-kind"
    (tmp_path / "file").write_text("")
    assert refused(lambda: keys.write(tmp_path / "file" / "k", keys.make("ecdsa"), None)) == "key-unwritable"


@pytest.mark.parametrize(
    "change",
    [
        {"keyid": "ab" * 32},
        {"public": "cd" * 32},
        {"public": "nothing"},
        {"scheme": "ecdsa-sha2-nistp256"},
        {"holder": "Hanako X"},
        {"kind": "other"},
        {"more": 1},
    ],
)
def test_a_public_key_file_that_was_changed(change: dict[str, object]) -> None:
    document = json.loads(keys.render_public(keys.public(keys.make("ed25519"), "hanako"))) | change
    with pytest.raises(ReleaseError):
        keys.parse_public(json.dumps(document).encode())
