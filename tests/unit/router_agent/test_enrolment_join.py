"""Enrolment over the network: a try that was cut off goes on with the same key, and a wrong answer installs nothing."""

import errno
import io
import json
import ssl
import tarfile
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from enrolment_papers import SITE, Papers, make_papers, pem

from cloudside.pki import address_blocks
from router_agent import cli, device, identity
from router_agent.enrolment import join, waiting
from router_agent.enrolment import ticket as tickets
from router_agent.enrolment.certificates import address_block
from router_agent.enrolment.ticket import Place, Ticket
from router_agent.errors import AgentError, BundleError, CloudRefusedError, CloudUnreachableError, StateError

PAPERS = make_papers()
TOKEN = "MFRGGZDFMZTWQ2LKMFRGGZDFMZTWQ2LK"


def document(**changed: object) -> bytes:
    whole: dict[str, object] = {
        "format": 1,
        "site": SITE,
        "token": TOKEN,
        "endpoints": [{"address": "203.0.113.2", "port": 8443}, {"address": "203.0.113.3", "port": 8443}],
        "endpoint_name": "agent.kyoten",
        "root": pem(PAPERS.root.certificate).decode(),
        **changed,
    }
    return json.dumps(whole).encode()


def ticket() -> Ticket:
    return tickets.parse(document())


class Cloud:
    """Answers as the cloud does; ``steps`` are what it does instead, one a request."""

    def __init__(self, papers: Papers = PAPERS, *steps: Exception | tuple[int, bytes], **document: object) -> None:
        self.papers = papers
        self.steps = list(steps)
        self.document = document
        self.asked: list[tuple[Place, dict[str, str]]] = []

    def __call__(self, _: Ticket, place: Place, body: bytes) -> tuple[int, bytes]:
        asked = json.loads(body)
        self.asked.append((place, asked))
        if self.steps:
            step = self.steps.pop(0)
            if isinstance(step, Exception):
                raise step
            return step
        files = self.papers.files(asked["csr"].encode(), **self.document)
        return 200, json.dumps({"format": 1, "files": {name: text.decode() for name, text in files.items()}}).encode()


def key_of(asked: dict[str, str]) -> object:
    return x509.load_pem_x509_csr(asked["csr"].encode()).public_key()


def test_a_router_is_enrolled_and_its_key_never_left_it(tmp_path: Path) -> None:
    cloud = Cloud()
    done = join.join(ticket(), tmp_path, post=cloud)
    [(place, asked)] = cloud.asked
    assert place == Place("203.0.113.2", 8443)
    assert set(asked) == {"site", "token", "csr", "device_id", "ssh_host_key"}
    assert asked["device_id"] == device.read(tmp_path) == done.device_id
    assert "PRIVATE" not in json.dumps(asked)
    assert identity.load(tmp_path) == done
    assert done.enrolment.site == SITE
    assert done.path("site.key").stat().st_mode & 0o777 == 0o600
    assert done.text("ssh_host_ed25519_key.pub").strip() == asked["ssh_host_key"]
    assert not (tmp_path / waiting.FIRST).exists()


def test_a_try_that_was_cut_off_goes_on_with_the_same_key_and_device_id(tmp_path: Path) -> None:
    cut = Cloud(PAPERS, ConnectionResetError("cut"), ConnectionResetError("cut"))
    with pytest.raises(CloudUnreachableError, match="enrol-unreachable"):
        join.join(ticket(), tmp_path, post=cut)
    assert [place.address for place, _ in cut.asked] == ["203.0.113.2", "203.0.113.3"]
    again = Cloud()
    join.join(ticket(), tmp_path, post=again)
    first, second = cut.asked[0][1], again.asked[0][1]
    assert key_of(first) == key_of(second)
    assert (first["device_id"], first["ssh_host_key"]) == (second["device_id"], second["ssh_host_key"])


def test_the_next_enrolment_has_a_key_of_its_own_and_keeps_the_device_id(tmp_path: Path) -> None:
    cloud = Cloud()
    join.join(ticket(), tmp_path, post=cloud)
    join.join(ticket(), tmp_path, post=cloud)
    first, second = (asked for _, asked in cloud.asked)
    assert key_of(first) != key_of(second)
    assert first["device_id"] == second["device_id"]


def test_the_next_endpoint_is_tried_when_one_is_down_and_not_when_one_says_no(tmp_path: Path) -> None:
    down = Cloud(PAPERS, (503, b""))
    join.join(ticket(), tmp_path, post=down)
    assert len(down.asked) == 2
    no = Cloud(PAPERS, (403, b'{"error": "pki.token-refused", "params": {}}'))
    with pytest.raises(CloudRefusedError):
        join.join(ticket(), tmp_path, post=no)
    assert len(no.asked) == 1


@pytest.mark.parametrize(
    ("step", "key"),
    [
        ((403, b'{"error": "x", "params": {}}'), "enrol-token-refused"),
        ((409, b"junk"), "enrol-device-elsewhere"),
        ((400, b'{"error": "pki.request-damaged"}'), "enrol-malformed"),
        ((429, b""), "enrol-too-often"),
        ((404, b""), "enrol-refused"),
        ((200, b"junk"), "answer-unknown"),
        ((200, b'{"format": 2, "files": {}}'), "answer-unknown"),
        ((200, b'{"format": 1, "files": {"a": 1}}'), "answer-unknown"),
        ((200, b'{"format": 1, "files": {"../x": "1"}}'), "member-unexpected"),
    ],
)
def test_every_no_has_its_word_and_installs_nothing(tmp_path: Path, step: tuple[int, bytes], key: str) -> None:
    with pytest.raises(AgentError, match=key):
        join.join(ticket(), tmp_path, post=Cloud(PAPERS, step))
    assert not identity.is_installed(tmp_path)


@pytest.mark.parametrize(
    ("papers", "document", "key"),
    [
        (PAPERS.attacked(common_name="osaka-1"), {}, "other-site"),
        (PAPERS, {"site": "osaka-1"}, "other-site"),
        (PAPERS.attacked(block="10.11.0.0/16"), {}, "block"),
        (PAPERS.attacked(block="10.10.0.0/16"), {}, "block"),
        (PAPERS.attacked(key=ec.generate_private_key(ec.SECP256R1()).public_key()), {}, "other-key"),
        (make_papers(), {}, "other-root"),
        (PAPERS.attacked(tenant=make_papers().tenant), {}, "chain"),
        (PAPERS.attacked(cloud=make_papers().cloud), {}, "chain"),
    ],
)
def test_an_answer_that_does_not_fit_installs_nothing(
    tmp_path: Path, papers: Papers, document: dict[str, object], key: str
) -> None:
    with pytest.raises(BundleError) as caught:
        join.join(ticket(), tmp_path, post=Cloud(papers, **document))
    assert key in {found.key.removeprefix("agent-cli.certificate-") for found in caught.value.problems}
    assert not identity.is_installed(tmp_path)
    assert waiting.find(tmp_path, waiting.FIRST) is not None, "the next try has the same key"


def test_a_wrong_clock_and_a_wrong_cloud_are_told_apart(tmp_path: Path) -> None:
    def untrusted(code: int) -> ssl.SSLCertVerificationError:
        error = ssl.SSLCertVerificationError(1, "verify failed")
        error.verify_code, error.verify_message = code, "said"
        return error

    for code, key in ((9, "enrol-clock"), (10, "enrol-clock"), (20, "enrol-untrusted")):
        with pytest.raises(CloudUnreachableError, match=key):
            join.join(ticket(), tmp_path, post=Cloud(PAPERS, untrusted(code), untrusted(code)))


def test_a_full_disk_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    device.manufacture(tmp_path)
    monkeypatch.setattr(waiting, "write_durably", full)
    cloud = Cloud()
    with pytest.raises(StateError, match="unwritable"):
        join.join(ticket(), tmp_path, post=cloud)
    assert cloud.asked == []
    monkeypatch.undo()
    monkeypatch.setattr(identity, "write_durably", full)
    with pytest.raises(StateError, match="unwritable"):
        join.join(ticket(), tmp_path, post=cloud)
    assert not identity.is_installed(tmp_path)
    monkeypatch.undo()
    join.join(ticket(), tmp_path, post=cloud)
    assert key_of(cloud.asked[0][1]) == key_of(cloud.asked[1][1])


def test_everything_wrong_with_a_ticket_is_told_at_once() -> None:
    with pytest.raises(BundleError) as caught:
        tickets.parse(document(site="Tokyo!", token="short", endpoints=[{"address": "a", "port": 0}], root="x"))
    assert {str(found.params["name"]) for found in caught.value.problems} == {"site", "token", "endpoints", "root"}
    assert TOKEN not in repr(ticket())


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"[" * 100_000, b"\xff", b'{"format": 2}', b'{"format": 1, "endpoints": [[]]}']
)
def test_any_other_ticket_is_our_error(text: bytes) -> None:
    with pytest.raises(BundleError):
        tickets.parse(text)


def test_a_device_id_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["manufacture", "--state", str(tmp_path)]) == cli.EXIT_OK
    made = device.read(tmp_path)
    assert made is not None
    assert (tmp_path / "device_id").stat().st_mode & 0o777 == 0o600
    assert cli.main(["manufacture", "--state", str(tmp_path)]) == cli.EXIT_CONFIGURATION
    assert device.read(tmp_path) == made
    said = capsys.readouterr()
    assert made not in said.out + said.err
    (tmp_path / "device_id").write_text("nonsense")
    with pytest.raises(StateError, match="damaged"):
        device.ensure(tmp_path)


def test_the_offline_way_has_no_private_key_in_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, csr = tmp_path / "state", tmp_path / "tokyo-1.csr"
    given = tmp_path / "tokyo-1.bundle"
    argv = ["request", "--site", SITE, "--output", str(csr), "--state", str(state)]
    assert cli.main(argv) == cli.EXIT_OK
    first = csr.read_bytes()
    assert (tmp_path / "tokyo-1.csr.device-id").read_text().strip() == device.read(state)
    assert (tmp_path / "tokyo-1.csr.ssh-host-key").read_text().startswith("ssh-ed25519 ")
    assert cli.main(argv) == cli.EXIT_OK, "asking again is fine, and asks for the same key"
    assert x509.load_pem_x509_csr(csr.read_bytes()).public_key() == x509.load_pem_x509_csr(first).public_key()
    given.write_bytes(archive(PAPERS.files(first)))
    assert cli.main(["install", str(given), "--state", str(state)]) == cli.EXIT_OK
    assert identity.load(state).enrolment.site == SITE
    other = tmp_path / "other"
    assert cli.main(["install", str(given), "--state", str(other)]) == cli.EXIT_INPUT
    assert "another key" in capsys.readouterr().err
    assert not identity.is_installed(other)


def test_a_name_that_is_no_site_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["request", "--site", "../x", "--output", str(tmp_path / "x"), "--state", str(tmp_path)]
    assert cli.main(argv) == cli.EXIT_INPUT
    assert "../x" in capsys.readouterr().err


def test_an_open_ticket_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ticket"
    path.write_bytes(document(endpoints=[{"address": "127.0.0.1", "port": 1}]))
    path.chmod(0o644)
    assert cli.main(["enrol", str(path), "--state", str(tmp_path / "state")]) == cli.EXIT_UNAVAILABLE
    said = capsys.readouterr().err
    assert "Warning" in said
    assert "127.0.0.1:1" in said
    assert TOKEN not in said
    path.chmod(0o600)
    cli.main(["enrol", str(path), "--state", str(tmp_path / "state")])
    assert "Warning" not in capsys.readouterr().err


def archive(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize("overlay", ["10.10.1.0/24", "10.10.0.0/16", "10.10.1.16/29", "10.0.0.0/9", "2001:db8::/48"])
def test_blocks_are_written_as_the_cloud_writes_them(overlay: str) -> None:
    assert address_block(ip_network(overlay)) == address_blocks.extension([ip_network(overlay)]).value
