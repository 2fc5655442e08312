"""The first start: what is found is taken once and erased; what is wrong is told once; the cloud is asked on and on."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from enrolment_papers import SITE, Papers, make_papers

from linux.errors import ProgramFailedError
from linux.runner import Finished
from router_agent import bundle, identity
from router_agent.enrolment import waiting
from router_agent.errors import CloudUnreachableError
from router_agent.identity import Identity
from router_agent.provision import LabelledMedia, Offer, Provisioning, take


@dataclass
class FakeMedia:
    """Media by device; ``protected``: what cannot be written."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    protected: bool = False
    looks: int = 0

    def signature(self) -> Sequence[str]:
        return sorted(self.files)

    def offers(self) -> Sequence[Offer]:
        self.looks += 1
        return [Offer(device, name, data) for device, files in self.files.items() for name, data in files.items()]

    def erase(self, offer: Offer) -> None:
        if self.protected:
            raise ProgramFailedError("mount", 32, "write-protected")
        del self.files[offer.device][offer.name]


@dataclass
class Scene:
    """A provisioning with everything it said."""

    state: Path
    media: FakeMedia = field(default_factory=FakeMedia)
    said: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    tries: int = 0
    unreachable: bool = False

    def begun(self) -> Provisioning:
        return Provisioning(self.state, self.media, lambda key, params: self.said.append((key, params)), self._take)

    def _take(self, offer: Offer, state: Path) -> Identity:
        self.tries += 1
        if self.unreachable:
            raise CloudUnreachableError("agent-cli.enrol-unreachable", endpoint="203.0.113.2:8443", reason="no route")
        return take(offer, state)

    def keys(self) -> list[str]:
        return [key.removeprefix("agent-cli.provision-") for key, _params in self.said]


@pytest.fixture
def papers() -> Papers:
    return make_papers()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "state")


def bundle_for(scene: Scene, papers: Papers) -> bytes:
    """What the cloud gives for the request that this router made."""
    waits = waiting.prepare(scene.state, waiting.FIRST, SITE)
    return packed(papers.files(waits.csr_pem))


def packed(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def test_a_bundle_is_taken_and_erased(scene: Scene, papers: Papers) -> None:
    scene.media.files["/dev/vda6"] = {"tokyo-1.bundle": bundle_for(scene, papers)}
    assert scene.begun().step()
    assert scene.keys() == ["done"]
    assert identity.load(scene.state).enrolment.site == SITE
    assert scene.media.files == {"/dev/vda6": {}}


def test_without_a_medium_it_waits_until_one_comes(scene: Scene, papers: Papers) -> None:
    waits = scene.begun()
    assert [waits.step(), waits.step()] == [False, False]
    assert scene.keys() == ["waiting"]
    scene.media.files["/dev/sda1"] = {"tokyo-1.bundle": bundle_for(scene, papers)}
    assert waits.step()
    assert scene.keys() == ["waiting", "done"]


def test_what_is_wrong_is_told_once_and_looked_at_again_when_the_medium_changes(scene: Scene) -> None:
    scene.media.files["/dev/sda1"] = {"a.bundle": b"junk", "b.ticket": b"{}"}
    waits = scene.begun()
    assert [waits.step(), waits.step(), waits.step()] == [False, False, False]
    assert scene.keys() == ["refused", "refused", "waiting"]
    assert scene.tries == 2
    assert "tar archive" in str(scene.said[0][1]["reason"])
    assert scene.media.files["/dev/sda1"], "nothing that was not used is erased"
    scene.media.files["/dev/sdb1"] = {}
    assert not waits.step()
    assert scene.tries == 4


def test_the_cloud_is_asked_on_and_on(scene: Scene, papers: Papers) -> None:
    scene.media.files["/dev/vda6"] = {"tokyo-1.bundle": bundle_for(scene, papers)}
    scene.unreachable = True
    waits = scene.begun()
    assert [waits.step(), waits.step()] == [False, False]
    assert waits.unreached
    scene.unreachable = False
    assert waits.step()
    assert scene.keys() == ["unreachable", "unreachable", "done"]


def test_what_cannot_be_erased_is_told_and_not_taken_again(scene: Scene, papers: Papers) -> None:
    scene.media.files["/dev/sda1"] = {"tokyo-1.bundle": bundle_for(scene, papers)}
    scene.media.protected = True
    assert scene.begun().step()
    assert scene.keys() == ["done", "kept"]
    assert scene.begun().step()
    assert scene.keys() == ["done", "kept"]
    assert scene.tries == 1
    scene.media.protected = False
    assert scene.begun().step()
    assert scene.media.files == {"/dev/sda1": {}}, "after a power cut between the two it is erased"


def test_no_secret_is_told(scene: Scene) -> None:
    scene.media.files["/dev/sda1"] = {"b.ticket": b'{"format": 1, "token": "very-secret-token-0123"}'}
    scene.begun().step()
    assert "very-secret" not in str(scene.said)
    assert "very-secret" not in repr(scene.media.offers())


class FakeMounts:
    """A runner whose mounts are directories."""

    def __init__(self, devices: Mapping[str, Path], mount_point: Path) -> None:
        self.devices = devices
        self.mount_point = mount_point
        self.argvs: list[Sequence[str]] = []

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 10.0, check: bool = True) -> Finished:
        self.argvs.append(argv)
        if argv[0] == "blkid":
            return Finished(0 if self.devices else 2, "\n".join(self.devices), "")
        if argv[0] == "mount":
            self.mount_point.rmdir()
            self.mount_point.symlink_to(self.devices[argv[-2]])
        else:
            self.mount_point.unlink()
            self.mount_point.mkdir()
        return Finished(0, "", "")


def test_sticks_go_first_and_only_what_has_our_names_is_read(tmp_path: Path) -> None:
    stick, own = tmp_path / "stick", tmp_path / "own"
    for directory in (stick, own):
        directory.mkdir()
    (own / "OLD.BUNDLE").write_bytes(b"own")
    (stick / "photo.jpg").write_bytes(b"x")
    (stick / "x.ticket").write_bytes(b"y" * (bundle.BUNDLE_MAX_BYTES + 10))
    (stick / "d.bundle").mkdir()
    mounts = FakeMounts({"/dev/a-own": own, "/dev/b-stick": stick}, tmp_path / "mnt")
    media = LabelledMedia(mounts, tmp_path / "mnt", own="/dev/a-own")
    found = media.offers()
    assert [(offer.device, offer.name) for offer in found] == [
        ("/dev/b-stick", "x.ticket"),
        ("/dev/a-own", "OLD.BUNDLE"),
    ]
    assert len(found[0].content) == bundle.BUNDLE_MAX_BYTES + 1
    assert all("ro" in argv[4].split(",") for argv in mounts.argvs if argv[0] == "mount")
    media.erase(found[1])
    assert list(own.iterdir()) == []
    (stick / "x.ticket").write_bytes(b"another")
    media.erase(found[0])
    assert (stick / "x.ticket").exists(), "it was exchanged meanwhile"


def test_without_a_medium_there_is_nothing(tmp_path: Path) -> None:
    media = LabelledMedia(FakeMounts({}, tmp_path / "mnt"), tmp_path / "mnt")
    assert (list(media.signature()), list(media.offers())) == ([], [])
