"""Any bytes as metadata, documents, permits: believed, or our error. Never another, and nothing half-written."""

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from firmware import permit, tuf_client
from firmware.errors import FirmwareError, ReleaseError
from firmware.release import parse, parse_module, parse_slot_facts, render, render_module
from firmware.repository import keys
from firmware.trust import Device, Trust

NOW = datetime(2026, 11, 22, tzinfo=UTC)
LATER = datetime(2027, 11, 22, tzinfo=UTC)
NAMES = ("2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json")

KEY = CryptoSigner.generate_ed25519()

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _honest() -> dict[str, bytes]:
    root = Root(1, expires=LATER)
    for role in ("root", "targets", "snapshot", "timestamp"):
        root.add_key(KEY.public_key, role)
    targets = Targets(1, expires=LATER)
    files: dict[str, bytes] = {}

    def put(name: str, signed: Root | Targets | Snapshot | Timestamp) -> None:
        metadata = Metadata(signed)
        metadata.sign(KEY)
        files[name] = metadata.to_bytes()

    put("1.root.json", root)
    put("1.targets.json", targets)
    # Without hashes, so that what was changed gets as far as its own reader.
    put("1.snapshot.json", Snapshot(1, expires=LATER, meta={"targets.json": MetaFile(1)}))
    put("timestamp.json", Timestamp(1, expires=LATER, snapshot_meta=MetaFile(1)))
    root.version = 2
    put("2.root.json", root)
    return files


HONEST = _honest()


class Cloud:
    """Serves files from memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def open(self, _kind: str, name: str) -> Any:
        if name not in self.files:
            raise FileNotFoundError(name)
        return iter([self.files[name]])


def believed(files: dict[str, bytes]) -> bool:
    """Whether a device believes it; everything but our own errors comes through."""
    with tempfile.TemporaryDirectory() as directory:
        trust = Trust(
            Path(directory) / "trust",
            root=files["1.root.json"],
            source=Cloud(files),
            device=Device("x", 1),
            built_at=NOW,
        )
        try:
            trust.refresh(NOW)
            trust.listing()
            trust.yanked("releases/x/1.json")
        except FirmwareError:
            return False
        finally:
            left = {path.name for path in (Path(directory) / "trust").glob("generation-*")}
            assert len(left) <= 1
        return True


@pytest.fixture(autouse=True)
def _no_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(os, "fsync", lambda _: None)


SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_the_honest_files_are_believed() -> None:
    assert believed(HONEST)


@SETTINGS
@given(st.sampled_from((*NAMES, "1.root.json")), st.binary(max_size=300))
def test_any_bytes_as_metadata(name: str, data: bytes) -> None:
    assert not believed(HONEST | {name: data})


@SETTINGS
@given(st.sampled_from((*NAMES, "1.root.json")), st.data())
def test_metadata_with_octets_exchanged(name: str, data: st.DataObject) -> None:
    changed = bytearray(HONEST[name])
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    believed(HONEST | {name: bytes(changed)})


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _places(inner, (*path, key))
    return found


@SETTINGS
@given(st.sampled_from((*NAMES, "1.root.json")), st.data())
def test_metadata_of_wrong_types_that_is_rightly_signed(name: str, data: st.DataObject) -> None:
    """The worst holder of keys: every field may be anything, and the signature is good."""
    document = json.loads(HONEST[name])
    place = data.draw(st.sampled_from(_places(document["signed"])))
    target: Any = document["signed"]
    for key in place[:-1]:
        target = target[key]
    if data.draw(st.booleans()):
        target[place[-1]] = data.draw(VALUES)
    else:
        del target[place[-1]]
    try:
        signed = encode_canonical(document["signed"])
    except Exception:  # floats: nobody can sign those
        signed = "{}"
    assert signed is not None
    signature = KEY.sign(signed.encode("utf-8", "replace"))
    document["signatures"] = [{"keyid": signature.keyid, "sig": signature.signature}]
    believed(HONEST | {name: json.dumps(document).encode()})


READERS: tuple[tuple[Callable[[bytes], object], Callable[[Any], bytes] | None], ...] = (
    (parse, render),
    (parse_module, render_module),
    (parse_slot_facts, None),
    (permit.parse, permit.render),
    (keys.parse_public, keys.render_public),
)


@SETTINGS
@given(st.sampled_from(READERS), st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_a_document(
    reader: tuple[Callable[[bytes], object], Callable[[Any], bytes] | None], data: bytes
) -> None:
    read, write = reader
    try:
        found = read(data)
    except ReleaseError as error:
        assert error.problems
        str(error)
    else:
        assert write is not None and write(found)


@SETTINGS
@given(VALUES)
def test_any_value_in_a_field_of_a_permit(value: Any) -> None:
    document = json.loads(permit.render(permit.SignedPermit(permit.Permit("a", "x", 2, 1, "2026-11-29T09:00:00Z"), {})))
    for name in document["permit"]:
        changed = document | {"permit": document["permit"] | {name: value}}
        try:
            again = permit.parse(json.dumps(changed).encode())
        except ReleaseError:
            continue
        assert permit.parse(permit.render(again)) == again


@SETTINGS
@given(st.binary(max_size=200))
def test_any_bytes_as_the_image_s_root(data: bytes) -> None:
    with pytest.raises(FirmwareError):
        tuf_client.refuse_twins(data)
