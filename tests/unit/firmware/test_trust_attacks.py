"""What somebody who serves the repository, or holds some of its keys, can make a device believe: nothing."""

import itertools
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from malicious_repository import HARDWARE, NOW, MaliciousRepository, a_module, a_release
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import MetaFile

from firmware.errors import FirmwareError, ReleaseError, SourceError, TrustError
from firmware.release import custom, render
from firmware.trust import Device, Trust

pytestmark = pytest.mark.usefixtures("no_flushes")

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def cloud() -> MaliciousRepository:
    return MaliciousRepository()


def device(directory: Path, cloud: MaliciousRepository, *, counter: int = 4, **more: object) -> Trust:
    return Trust(
        directory / "trust",
        root=cloud.bootstrap,
        source=cloud,
        device=Device(HARDWARE, counter),
        built_at=NOW - 30 * DAY,
        **more,  # type: ignore[arg-type]
    )


def refused(action: object, key: str) -> FirmwareError:
    with pytest.raises(FirmwareError) as caught:
        action()  # type: ignore[operator]
    assert caught.value.key == key, caught.value
    return caught.value


def test_what_is_published_is_believed(tmp_path: Path, cloud: MaliciousRepository) -> None:
    path, other = cloud.add(a_release(5)), cloud.add_module(a_module())
    cloud.publish()
    trust = device(tmp_path, cloud)
    seen = trust.refresh(NOW)
    assert (seen.root, seen.timestamp, seen.snapshot, seen.targets) == (1, 2, 2, 2)
    assert seen.changed and seen.clock_behind_s == 0 and seen.at == NOW
    assert trust.release(path) == a_release(5)
    assert trust.module(other) == a_module()
    listed = {one.path: one for one in trust.listing()}
    assert listed[path].counter == 5 and listed[path].minimum_from == 1 and listed[other].module_kind == "modem-table"
    assert trust.yanked(path) is None
    # The same again asks for the root after and for the timestamp, and writes nothing.
    cloud.asked.clear()
    assert not device(tmp_path, cloud).refresh(NOW + HOUR).changed
    assert cloud.asked == ["2.root.json", "timestamp.json"]


def test_rollback_of_the_timestamp(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    old = cloud.saved()
    cloud.publish()
    device(tmp_path, cloud).refresh(NOW)
    cloud.files = old
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.metadata-rollback")


def test_rollback_of_the_snapshot_by_a_stolen_timestamp_key(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    cloud.publish()
    device(tmp_path, cloud).refresh(NOW)
    cloud.snapshot.version -= 1
    cloud.publish_timestamp()
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.metadata-rollback")


def test_rollback_of_the_targets_by_stolen_online_keys(tmp_path: Path, cloud: MaliciousRepository) -> None:
    path = cloud.add(a_release(4, version="2026.4"))
    cloud.publish()
    del cloud.targets.targets[path]
    cloud.publish()
    device(tmp_path, cloud).refresh(NOW)
    cloud.targets.version -= 1
    cloud.publish(targets=False)
    error = refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.metadata-rollback")
    assert error.params["role"] == "snapshot"


def test_rollback_by_leaving_the_targets_out_of_the_snapshot(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    device(tmp_path, cloud).refresh(NOW)
    cloud.snapshot.version += 1
    cloud.snapshot.meta = {"other.json": MetaFile(1)}
    cloud.sign_snapshot()
    cloud.publish_timestamp()
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.metadata-damaged")


@pytest.mark.parametrize(
    ("role", "after"), [("timestamp", 3 * DAY), ("snapshot", 15 * DAY), ("targets", 91 * DAY), ("root", 366 * DAY)]
)
def test_freeze(tmp_path: Path, cloud: MaliciousRepository, role: str, after: timedelta) -> None:
    cloud.publish()
    device(tmp_path, cloud).refresh(NOW)
    now = NOW + after
    frozen = {"timestamp": cloud.timestamp, "snapshot": cloud.snapshot, "targets": cloud.targets, "root": cloud.root}
    for name, signed in frozen.items():
        if name != role:
            signed.expires = now + DAY
    if role != "root":
        cloud.next_root()
        cloud.root.expires = now + DAY
        cloud.publish_root()
    if role != "timestamp":
        cloud.publish(targets=role != "targets", snapshot=role != "snapshot")
    error = refused(lambda: device(tmp_path, cloud).refresh(now), "firmware.metadata-expired")
    assert error.params["role"] == role


def test_mix_and_match(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    cloud.add(a_release(5))
    cloud.publish()
    # Of two states that were both signed: the newer snapshot over the older targets, under the newer's name.
    cloud.files["metadata", "3.targets.json"] = cloud.files["metadata", "2.targets.json"]
    error = refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.metadata-mixed")
    assert error.params["role"] == "targets"
    cloud.files["metadata", "3.snapshot.json"] = cloud.files["metadata", "2.snapshot.json"]
    error = refused(lambda: device(tmp_path / "other", cloud).refresh(NOW), "firmware.metadata-mixed")
    assert error.params["role"] == "snapshot"


def test_mix_and_match_where_no_hashes_are_given(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    cloud.publish()
    cloud.timestamp.version += 1
    cloud.timestamp.snapshot_meta = MetaFile(3)
    cloud.sign_timestamp()
    cloud.files["metadata", "3.snapshot.json"] = cloud.files["metadata", "2.snapshot.json"]
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.metadata-mixed")


class _Endless:
    """Spaces without end; how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __call__(self) -> Iterator[bytes]:
        while True:
            self.taken += 1000
            yield b" " * 1000


@pytest.mark.parametrize("name", ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"])
def test_endless_metadata(tmp_path: Path, cloud: MaliciousRepository, name: str) -> None:
    cloud.publish()
    endless = _Endless()
    cloud.replies["metadata", name] = endless
    error = refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.endless")
    assert error.params["name"] == name and endless.taken - 1000 <= int(error.params["maximum"]) <= 1 << 20


def test_an_endless_document(tmp_path: Path, cloud: MaliciousRepository) -> None:
    path = cloud.add(a_release(5))
    cloud.publish()
    trust = device(tmp_path, cloud)
    trust.refresh(NOW)
    (name,) = [name for kind, name in cloud.files if kind == "targets"]
    endless = _Endless()
    cloud.replies["targets", name] = endless
    refused(lambda: trust.release(path), "firmware.endless")
    assert endless.taken < 10_000


def test_slow_retrieval_ends(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    seconds = itertools.count(step=30.0)

    def drops() -> Iterator[bytes]:
        for octet in cloud.files["metadata", "timestamp.json"]:
            yield bytes([octet])

    cloud.replies["metadata", "timestamp.json"] = drops
    trust = device(tmp_path, cloud, limit_s=600.0, monotonic=lambda: next(seconds))
    refused(lambda: trust.refresh(NOW), "firmware.too-slow")
    # Until the limit is reached it is only slow.
    device(tmp_path, cloud, limit_s=1e9, monotonic=lambda: next(seconds)).refresh(NOW)


def test_the_transport_s_own_error_comes_through(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()

    def fails() -> Iterator[bytes]:
        yield b"{"
        raise SourceError("agent.line-dropped")

    cloud.replies["metadata", "timestamp.json"] = fails
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "agent.line-dropped")


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_keys_below_the_threshold_sign_nothing(tmp_path: Path, cloud: MaliciousRepository, role: str) -> None:
    cloud.publish()
    device(tmp_path, cloud).refresh(NOW)
    threshold = cloud.root.roles[role].threshold
    stolen = cloud.signers[role][: threshold - 1]
    cloud.signers[role] = [*stolen, *(CryptoSigner.generate_ed25519() for _ in range(3))]
    if role == "root":
        cloud.next_root()
        cloud.publish_root()
    cloud.publish()
    error = refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.signatures-missing")
    assert error.params["role"] == role


def test_a_new_root_needs_the_old_holders_and_the_new_ones(tmp_path: Path, cloud: MaliciousRepository) -> None:
    old = cloud.replace_key("root")
    cloud.publish()
    both = cloud.files["metadata", "2.root.json"]
    for signers in (old, cloud.signers["root"]):
        cloud._put("root", cloud.root, signers)
        refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.signatures-missing")
    cloud.files["metadata", "2.root.json"] = both
    assert device(tmp_path, cloud).refresh(NOW).root == 2


def test_a_gap_in_the_chain_of_roots(tmp_path: Path, cloud: MaliciousRepository) -> None:
    for _ in range(3):
        cloud.replace_key("root")
    cloud.publish()
    chain = {name: data for (_, name), data in cloud.files.items()}
    cloud.files["metadata", "2.root.json"] = chain["3.root.json"]
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.signatures-missing")
    cloud.files["metadata", "2.root.json"] = cloud.bootstrap
    error = refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.root-chain")
    assert error.params["wanted"] == 2
    del cloud.files["metadata", "2.root.json"]
    # Whatever the newest root allows: without the way there the image's root counts.
    assert device(tmp_path, cloud).refresh(NOW).root == 1
    cloud.files["metadata", "2.root.json"] = chain["2.root.json"]
    assert device(tmp_path, cloud).refresh(NOW).root == 4


def test_a_root_that_took_a_key_away_is_not_forgotten_when_the_line_drops(
    tmp_path: Path, cloud: MaliciousRepository
) -> None:
    cloud.publish()
    device(tmp_path, cloud).refresh(NOW)
    stolen = cloud.replace_key("timestamp")
    cloud.replies["metadata", "timestamp.json"] = lambda: iter([b"", b"{"])
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.metadata-damaged")
    # From now on the attacker hides the new root and signs with what was stolen.
    del cloud.files["metadata", "2.root.json"], cloud.replies["metadata", "timestamp.json"]
    cloud.signers["timestamp"] = stolen
    cloud.publish()
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.signatures-missing")


def test_recovery_from_fast_forward(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    honest = cloud.timestamp.version, cloud.snapshot.version, cloud.targets.version
    for signed in (cloud.timestamp, cloud.snapshot, cloud.targets):
        signed.version = 1_000_000
    cloud.publish()
    device(tmp_path, cloud).refresh(NOW)
    cloud.timestamp.version, cloud.snapshot.version, cloud.targets.version = honest
    cloud.publish()
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.metadata-rollback")
    for role in ("timestamp", "snapshot", "targets"):
        cloud.replace_key(role)
    cloud.publish()
    seen = device(tmp_path, cloud).refresh(NOW)
    assert seen.root == 4 and seen.targets < 1_000_000


def test_one_key_under_two_ids_counts_once(tmp_path: Path, cloud: MaliciousRepository) -> None:
    thief = cloud.signers["targets"][0]
    twin = SSlibKey("ab" * 32, "ed25519", "ed25519", {"public": thief.public_key.keyval["public"].upper()})
    cloud.next_root()
    cloud.root.add_key(twin, "targets")
    cloud.publish_root()
    cloud.signers["targets"] = [thief, CryptoSigner(thief._private_key, twin)]
    cloud.publish()
    error = refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.key-twice")
    assert error.params["role"] == "targets"


def test_one_signature_written_twice_counts_once(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.signers["targets"] = cloud.signers["targets"][:1]
    cloud.publish()
    document = json.loads(cloud.files["metadata", "2.targets.json"])
    document["signatures"] *= 2
    forged = json.dumps(document).encode()
    cloud.files["metadata", "2.targets.json"] = forged
    cloud.snapshot.meta["targets.json"] = MetaFile.from_data(2, forged, ["sha256"])
    cloud.snapshot.version += 1
    cloud.sign_snapshot()
    cloud.publish_timestamp()
    with pytest.raises(TrustError):
        device(tmp_path, cloud).refresh(NOW)


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1] + b" ", lambda data: data[:50], lambda data: b"", lambda data: data + b"\n"]
)
def test_a_target_that_was_replaced(tmp_path: Path, cloud: MaliciousRepository, change: object) -> None:
    path = cloud.add(a_release(5))
    cloud.publish()
    trust = device(tmp_path, cloud)
    trust.refresh(NOW)
    ((name, data),) = [(name, data) for (kind, name), data in cloud.files.items() if kind == "targets"]
    cloud.files["targets", name] = change(data)  # type: ignore[operator]
    with pytest.raises(TrustError) as caught:
        trust.release(path)
    assert caught.value.key in ("firmware.target-replaced", "firmware.endless")
    cloud.files["targets", name] = data
    assert trust.release(path).counter == 5


def test_another_release_s_document_under_this_one_s_name(tmp_path: Path, cloud: MaliciousRepository) -> None:
    # Signed so by mistake: what the metadata says and what the document says differ.
    path = cloud.add(a_release(5), document=None, path=f"releases/{HARDWARE}/9.json")
    other = cloud.put_target(f"releases/{HARDWARE}/2026.6.json", b"{}", {"counter": 6, "minimum_from": 0})
    cloud.publish()
    trust = device(tmp_path, cloud)
    trust.refresh(NOW)
    refused(lambda: trust.release(path), "firmware.document-disagrees")
    with pytest.raises(ReleaseError) as caught:
        trust.release(other)
    assert len(caught.value.problems) > 10


def test_metadata_that_says_a_higher_counter_than_the_document(tmp_path: Path, cloud: MaliciousRepository) -> None:
    release = a_release(3)
    path = f"releases/{HARDWARE}/2026.3.json"
    cloud.put_target(path, render(release), {**custom(release), "counter": 9})
    cloud.publish()
    trust = device(tmp_path, cloud, counter=4)
    trust.refresh(NOW)
    refused(lambda: trust.release(path), "firmware.document-disagrees")


def test_wrong_hardware_is_refused_before_anything_is_fetched(tmp_path: Path, cloud: MaliciousRepository) -> None:
    path = cloud.add(a_release(5, hardware="generic-arm64"))
    cloud.publish()
    trust = device(tmp_path, cloud)
    trust.refresh(NOW)
    cloud.asked.clear()
    refused(lambda: trust.release(path), "firmware.wrong-hardware")
    assert cloud.asked == []


def test_a_lower_counter_is_refused_before_anything_is_fetched(tmp_path: Path, cloud: MaliciousRepository) -> None:
    path = cloud.add(a_release(3))
    cloud.publish()
    trust = device(tmp_path, cloud, counter=4)
    trust.refresh(NOW)
    cloud.asked.clear()
    error = refused(lambda: trust.release(path), "firmware.counter-rollback")
    assert (error.params["counter"], error.params["installed"]) == (3, 4) and cloud.asked == []
    same = device(tmp_path, cloud, counter=3)
    same.refresh(NOW)
    assert same.release(path).counter == 3


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "releases/../x/1.json",
        f"releases/{HARDWARE}/../../1.json",
        f"/releases/{HARDWARE}/1.json",
        f"releases/{HARDWARE}/1.json\n",
        f"releases/{HARDWARE}/1.json\x00",
        f"modules/{HARDWARE}/1.json",
        f"releases//{HARDWARE}/1.json",
        f"releases/{HARDWARE}/..1.json",
        f"releases/{HARDWARE}/%2e%2e.json",
        "",
        "x" * 5000,
    ],
)
def test_path_traversal_in_names(tmp_path: Path, cloud: MaliciousRepository, path: str) -> None:
    cloud.put_target(path, b"{}", {"counter": 9})
    cloud.publish()
    trust = device(tmp_path, cloud)
    trust.refresh(NOW)
    cloud.asked.clear()
    refused(lambda: trust.release(path), "firmware.bad-path")
    assert cloud.asked == []
    assert all(one.kind == "modules" for one in trust.listing())
    assert {place.name for place in tmp_path.iterdir()} == {"trust"}


def test_what_is_not_published_or_was_taken_back(tmp_path: Path, cloud: MaliciousRepository) -> None:
    path = cloud.add(a_release(5))
    cloud.publish()
    trust = device(tmp_path, cloud)
    trust.refresh(NOW)
    refused(lambda: trust.release(f"releases/{HARDWARE}/7.json"), "firmware.not-published")
    del cloud.targets.targets[path]
    cloud.targets.unrecognized_fields["x-kyoten-yanked"] = {path: {"reason": "It loses the modem.", "at": "x"}}
    cloud.publish()
    trust.refresh(NOW)
    assert trust.yanked(path) == "It loses the modem."
    error = refused(lambda: trust.release(path), "firmware.yanked")
    assert error.params["reason"] == "It loses the modem."


def test_metadata_that_is_not_there(tmp_path: Path, cloud: MaliciousRepository) -> None:
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.metadata-missing")


def test_a_root_in_the_image_that_is_damaged(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    cloud.bootstrap = cloud.bootstrap[:-20]
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.metadata-damaged")
    forged = MaliciousRepository()
    forged.signers["root"] = forged.signers["root"][:1]
    forged.publish_root()
    cloud.bootstrap = forged.files["metadata", "1.root.json"]
    refused(lambda: device(tmp_path, cloud).refresh(NOW), "firmware.signatures-missing")


def test_a_refresh_comes_first(tmp_path: Path, cloud: MaliciousRepository) -> None:
    with pytest.raises(RuntimeError):
        device(tmp_path, cloud).release(cloud.add(a_release(5)))


def test_delegations_lead_nowhere(tmp_path: Path, cloud: MaliciousRepository) -> None:
    from tuf.api.metadata import DelegatedRole, Delegations

    thief = CryptoSigner.generate_ed25519()
    role = DelegatedRole("thief", [thief.public_key.keyid], 1, True, ["*", "*/*", "*/*/*"])
    cloud.targets.delegations = Delegations({thief.public_key.keyid: thief.public_key}, {"thief": role})
    cloud.publish()
    trust = device(tmp_path, cloud)
    trust.refresh(NOW)
    cloud.asked.clear()
    refused(lambda: trust.release(f"releases/{HARDWARE}/7.json"), "firmware.not-published")
    assert cloud.asked == []
