"""The enrolment bundle: what the cloud packs the agent reads; for anything else it says all that is wrong."""

import errno
import io
import json
import tarfile
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from enrolment_papers import DOCUMENT, make_papers

from cloudside.pki import bundle as cloud_bundle
from router_agent import bundle, cli, identity
from router_agent.errors import AgentError, BundleError, StateError

PAPERS = make_papers()
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\n"
MEMBERS: dict[str, bytes] = {
    "site.key": b"-----BEGIN PRIVATE KEY-----\n",
    "site.crt": CERTIFICATE,
    "tenant-authority.crt": CERTIFICATE,
    "cloud-authority.crt": CERTIFICATE,
    "root.crt": CERTIFICATE,
    "device_id": b"0f" * 32,
    "ssh_host_ed25519_key": b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
    "ssh_host_ed25519_key.pub": b"ssh-ed25519 AAAA",
    "authorized_keys": b"ssh-ed25519 AAAA",
}


def packed(document: object = DOCUMENT, members: dict[str, bytes] = MEMBERS, names: tuple[str, ...] = ()) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in [
            ("bundle.json", json.dumps(document).encode()),
            *members.items(),
            *((n, b"x") for n in names),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue()


def real(**document: object) -> bytes:
    """A bundle whose certificates fit each other."""
    members = PAPERS.old_bundle(**document)
    return packed(json.loads(members.pop("bundle.json")), members)


def problems(archive: bytes) -> set[tuple[str, str]]:
    with pytest.raises(BundleError) as caught:
        bundle.read(archive)
    return {
        (found.key.removeprefix("agent-cli.bundle-"), str(next(iter(found.params.values()), "")))
        for found in caught.value.problems
    }


def test_what_the_cloud_packs_the_agent_reads() -> None:
    description = cloud_bundle.Description(
        site="tokyo-1", tenant="acme", overlay=ip_network("10.10.1.0/24"), lan=ip_network("192.168.1.0/24"),
        gateways=("vpn.example", "203.0.113.2"), gateway_identity="vpn.kyoten",
        service_address=ip_address("10.255.255.1"),
        reachable=ip_network("10.0.0.0/8"), endpoints=(cloud_bundle.Endpoint(ip_address("10.255.255.1"), 8443, True),),
        endpoint_name="agent.kyoten", heartbeat_s=30,
    )  # fmt: skip
    found = bundle.read(cloud_bundle.pack(description, list(MEMBERS.items()), now=datetime.now(UTC))).enrolment
    for name in ("site", "tenant", "overlay", "lan", "gateways", "gateway_identity", "service_address", "reachable",
                 "endpoint_name", "heartbeat_s"):  # fmt: skip
        assert getattr(found, name) == getattr(description, name), name
    assert found.endpoints == (bundle.Endpoint("10.255.255.1", 8443, True),)
    assert found.router_address == ip_address("10.10.1.1")
    assert found.mapped


def test_all_problems_are_told_at_once() -> None:
    document = {**DOCUMENT, "site": "Tokyo!", "overlay": "10.10.1.5/24", "heartbeat_s": 0, "extra": 1}
    del document["endpoints"]
    members = {name: content for name, content in MEMBERS.items() if name != "root.crt"} | {"site.crt": b"nonsense"}
    assert problems(packed(document, members, ("../../etc/passwd",))) == {
        ("wants-label", "site"), ("wants-prefix", "overlay"), ("wants-seconds", "heartbeat_s"),
        ("key-unknown", "extra"), ("key-missing", "endpoints"), ("member-missing", "root.crt"),
        ("member-damaged", "site.crt"),
        ("member-unexpected", "../../etc/passwd"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("format", 2, "format"), ("format", True, "wants-number"), ("gateways", [], "wants-names"),
        ("gateways", ["a b"], "wants-name"), ("service_address", "10.0.0.0/8", "wants-address"),
        ("endpoints", [{"address": "a", "port": 0, "in_tunnel": True}], "wants-endpoints"),
        ("endpoints", [{"address": "a", "port": 1}], "wants-endpoints"), ("heartbeat_s", "30", "wants-seconds"),
        ("lan", "192.168.0.0/16", "prefixes-differ"), ("reachable", None, "wants-name"),
    ],
)  # fmt: skip
def test_wrong_values_are_told_apart(name: str, value: object, key: str) -> None:
    assert key in {found for found, _ in problems(packed({**DOCUMENT, name: value}))}


def test_a_prefix_without_room_is_refused() -> None:
    document = {**DOCUMENT, "overlay": "10.10.1.0/31", "lan": "10.10.1.0/31"}
    assert problems(packed(document)) == {("prefix-too-small", "overlay")}


@pytest.mark.parametrize("archive", [b"", b"junk" * 500, b"\x1f\x8b" + b"x" * 600, packed()[:700]])
def test_what_is_no_archive_is_our_error(archive: bytes) -> None:
    assert problems(archive)


def test_links_large_members_and_large_archives_are_refused() -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        link = tarfile.TarInfo("site.key")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(link)
    assert ("member-unexpected", "site.key") in problems(archive.getvalue())
    large = {**MEMBERS, "authorized_keys": b"x" * (bundle.MEMBER_MAX_BYTES + 1)}
    assert ("member-too-large", "authorized_keys") in problems(packed(members=large))
    assert {key for key, _ in problems(b"x" * (bundle.BUNDLE_MAX_BYTES + 1))} == {"too-large"}


def test_secrets_stay_out_of_texts() -> None:
    shown = repr(bundle.read(packed()))
    assert "PRIVATE" not in shown
    assert "0f0f" not in shown


def test_installing_is_whole_and_secrets_are_roots_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = identity.install(bundle.read(real()), state)
    assert identity.load(state) == done
    assert done.device_id == "0f" * 32
    assert (state / "identity" / "site.key").stat().st_mode & 0o777 == 0o600
    assert sorted(place.name for place in state.iterdir()) == ["identity"]


def test_another_sites_bundle_takes_neither_settings_nor_log_over(tmp_path: Path) -> None:
    identity.install(bundle.read(real()), tmp_path)
    left = [tmp_path / name for name in ("settings.json", "agent.log", "agent.log.1")]
    for place in left:
        place.write_text("{}")
    identity.install(bundle.read(real(heartbeat_s=31)), tmp_path)
    assert all(place.exists() for place in left)
    identity.install(bundle.read(real(site="osaka-1")), tmp_path)
    assert not any(place.exists() for place in left)
    assert identity.load(tmp_path).enrolment.site == "osaka-1"


def test_a_power_cut_between_the_renames_keeps_the_old_identity(tmp_path: Path) -> None:
    identity.install(bundle.read(real()), tmp_path)
    (tmp_path / "identity").rename(tmp_path / "identity.old")
    assert identity.load(tmp_path).enrolment.site == "tokyo-1"


def test_a_full_disk_after_such_a_cut_keeps_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity.install(bundle.read(real()), tmp_path)
    (tmp_path / "identity").rename(tmp_path / "identity.old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(identity, "write_durably", full)
    with pytest.raises(StateError):
        identity.install(bundle.read(real(heartbeat_s=31)), tmp_path)
    assert identity.load(tmp_path).enrolment.heartbeat_s == DOCUMENT["heartbeat_s"]


def test_a_bundle_whose_copy_broke_off_does_not_keep_an_enrolled_router_from_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "bundle.tar"
    given.write_bytes(real()[:1000])
    with pytest.raises(BundleError):
        cli._identity(given, tmp_path)
    identity.install(bundle.read(real()), tmp_path)
    assert cli._identity(given, tmp_path).enrolment.site == "tokyo-1"
    assert str(given) in capsys.readouterr().err


def test_nothing_installed_and_damaged_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="not-enrolled"):
        identity.load(tmp_path)
    identity.install(bundle.read(real()), tmp_path)
    (tmp_path / "identity" / "device_id").unlink()
    with pytest.raises(BundleError) as caught:
        identity.load(tmp_path)
    assert [found.params for found in caught.value.problems] == [{"member": "device_id"}]
    with pytest.raises(AgentError, match="bundle-unreadable"):
        identity.read_bundle(tmp_path / "nowhere")
