"""Downgrade permits: one step, one site or all, for a while, by the holders of targets keys."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from malicious_repository import HARDWARE, NOW, MaliciousRepository, a_release
from securesystemslib.signer import CryptoSigner, Signer

from firmware import permit
from firmware.errors import FirmwareError, ReleaseError, TrustError
from firmware.permit import Permit, SignedPermit
from firmware.trust import Device, Trust

pytestmark = pytest.mark.usefixtures("no_flushes")

STEP = Permit("tokyo-1", HARDWARE, 5, 3, "2026-11-29T09:00:00Z")


@pytest.fixture
def cloud() -> MaliciousRepository:
    made = MaliciousRepository()
    made.add(a_release(3))
    made.publish()
    return made


def device(directory: Path, cloud: MaliciousRepository, *, counter: int = 5, hardware: str = HARDWARE) -> Trust:
    trust = Trust(
        directory / "trust", root=cloud.bootstrap, source=cloud, device=Device(hardware, counter), built_at=NOW
    )
    trust.refresh(NOW)
    return trust


def signed(step: Permit, *signers: Signer) -> str:
    made = SignedPermit(step, {})
    for signer in signers:
        made = permit.sign(made, signer)
    return permit.render(made).decode()


def refusal(trust: Trust, text: str, *, site: str = "tokyo-1") -> str:
    with pytest.raises(FirmwareError) as caught:
        trust.permit(text, site=site)
    return caught.value.key


def test_with_a_permit_and_only_with_it_a_device_goes_back(tmp_path: Path, cloud: MaliciousRepository) -> None:
    trust = device(tmp_path, cloud)
    path = f"releases/{HARDWARE}/2026.3.json"
    with pytest.raises(TrustError):
        trust.release(path)
    found = trust.permit(signed(STEP, *cloud.signers["targets"][:2]), site="tokyo-1")
    assert found == STEP
    assert trust.release(path, permit=found).counter == 3
    with pytest.raises(TrustError) as caught:
        trust.release(path, permit=replace(found, to_counter=2))
    assert caught.value.key == "firmware.counter-rollback"
    everywhere = signed(replace(STEP, site="*"), *cloud.signers["targets"][1:])
    assert trust.permit(everywhere, site="osaka-9").site == "*"


def test_who_must_have_signed(tmp_path: Path, cloud: MaliciousRepository) -> None:
    trust = device(tmp_path, cloud)
    holders = cloud.signers["targets"]
    assert refusal(trust, signed(STEP)) == "firmware.permit-unsigned"
    assert refusal(trust, signed(STEP, holders[0])) == "firmware.permit-unsigned"
    assert refusal(trust, signed(STEP, holders[0], holders[0])) == "firmware.permit-unsigned"
    strangers = [CryptoSigner.generate_ed25519() for _ in range(2)]
    assert refusal(trust, signed(STEP, *strangers, *cloud.signers["root"])) == "firmware.permit-unsigned"
    assert refusal(trust, signed(STEP, *cloud.signers["timestamp"], holders[0])) == "firmware.permit-unsigned"
    document = json.loads(signed(STEP, *holders))
    document["permit"]["to_counter"] = 1
    assert refusal(trust, json.dumps(document)) == "firmware.permit-unsigned"


def test_a_holder_who_was_taken_away_counts_no_more(tmp_path: Path, cloud: MaliciousRepository) -> None:
    text = signed(STEP, *cloud.signers["targets"])
    assert device(tmp_path, cloud).permit(text, site="tokyo-1")
    cloud.replace_key("targets")
    cloud.publish()
    assert refusal(device(tmp_path, cloud), text) == "firmware.permit-unsigned"


def test_where_and_when_it_holds(tmp_path: Path, cloud: MaliciousRepository) -> None:
    text = signed(STEP, *cloud.signers["targets"])
    trust = device(tmp_path, cloud)
    assert refusal(trust, text, site="tokyo-2") == "firmware.permit-elsewhere"
    assert refusal(device(tmp_path, cloud, hardware="arm"), text) == "firmware.permit-elsewhere"
    assert refusal(device(tmp_path, cloud, counter=6), text) == "firmware.permit-other-counter"
    assert refusal(device(tmp_path, cloud, counter=3), text) == "firmware.permit-other-counter"
    cloud.at(NOW + timedelta(days=7))
    cloud.publish()
    trust.refresh(NOW + timedelta(days=7))
    assert refusal(trust, text) == "firmware.permit-expired"


def test_signatures_under_metadata_are_none_under_a_permit(tmp_path: Path, cloud: MaliciousRepository) -> None:
    metadata = json.loads(cloud.files["metadata", "2.targets.json"])
    document = json.loads(signed(STEP))
    document["signatures"] = metadata["signatures"]
    assert refusal(device(tmp_path, cloud), json.dumps(document)) == "firmware.permit-unsigned"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"site": "Tokyo 1"}, "permit.site"),
        ({"to_counter": 0}, "permit.to_counter"),
        ({"expires": "soon"}, "permit.expires"),
        ({"kind": "other"}, "permit.format"),
        ({"format": 2}, "permit.format"),
        ({"more": 1}, "permit.more"),
        ({"from_counter": True}, "permit.from_counter"),
    ],
)
def test_permits_that_cannot_be_read(change: dict[str, object], place: str) -> None:
    document = json.loads(signed(STEP))
    document["permit"] |= change
    with pytest.raises(ReleaseError) as caught:
        permit.parse(json.dumps(document).encode())
    assert [problem.params["place"] for problem in caught.value.problems] == [place]


def test_a_permit_is_written_in_one_way() -> None:
    text = permit.render(SignedPermit(STEP, {"ab" * 32: "cd" * 64}))
    assert permit.render(permit.parse(text)) == text
    with pytest.raises(ReleaseError):
        permit.parse(text + b" " * permit.PERMIT_MAX_BYTES)
