"""`kyoten firmware`: from keys to a published release, with right and wrong input; what the worker does by itself."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cloudside.cli import firmware_upkeep
from cloudside.cli.context import Cli
from cloudside.errors import RefusedError
from cloudside.registry import releases
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database

#: What the fixture gives: run one command line.
Kyoten = Callable[..., Any]

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PATH = "releases/generic-x86-64/2026.1.json"


@pytest.fixture
def passphrase(tmp_path: Path) -> str:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_text("a long passphrase\n")
    return str(path)


@pytest.fixture
def begun(kyoten: Kyoten, passphrase: str) -> Kyoten:
    """Keys of hanako, taro (root) and jiro, ume (targets); both roles want two. Nothing is signed yet."""
    for name in ("hanako", "taro", "jiro", "ume"):
        kyoten("firmware", "keys", "make", name, "--output", f"{name}.key", "--passphrase-file", passphrase)
    roots = ("--root", "hanako.key.pub", "--root", "taro.key.pub")
    kyoten("firmware", "keys", "init", *roots, "--targets", "jiro.key.pub", "--targets", "ume.key.pub")
    return kyoten


def sign(kyoten: Kyoten, passphrase: str, *names: str, more: tuple[str, ...] = ()) -> None:
    for name in names:
        kyoten("firmware", "sign", "--key", f"{name}.key", "--passphrase-file", passphrase, "--yes", *more)


@pytest.fixture
def opened(begun: Kyoten, passphrase: str) -> Kyoten:
    sign(begun, passphrase, "hanako", "taro", "jiro", "ume")
    begun("firmware", "publish")
    return begun


def built(kyoten: Kyoten, directory: Path, counter: int, *more: str, content: bytes = b"") -> Path:
    """A release of a bundle and slot that are no image."""
    output = directory / f"release-{counter}"
    slot = (content or os.urandom(8192)).ljust(8192, b"\0")
    (directory / "slot.img").write_bytes(slot)
    (directory / "bundle.raucb").write_bytes(b"bundle" + slot)
    facts = {"root_hash": "a" * 64, "salt": "b" * 64, "data_blocks": 1, "image_size": len(slot)}
    (directory / "slot.json").write_text(json.dumps({**facts, "image_sha256": sha256(slot).hexdigest()}))
    kyoten(
        *("firmware", "build", "--hardware", "generic-x86-64", "--version", f"2026.{counter}"),
        *("--counter", str(counter), "--bundle", "bundle.raucb", "--slot", "slot.img", "--slot-facts", "slot.json"),
        *("--output", str(output), *more),
    )
    (directory / "slot.img").unlink()
    return output


def test_a_release_from_a_build_to_the_registry(opened: Kyoten, passphrase: str, tmp_path: Path) -> None:
    assert "no releases yet" in opened("firmware", "list").out
    first = built(opened, tmp_path, 1, content=b"same" * 1000)
    assert "2026.1.json is staged" in opened("firmware", "stage", str(first)).out
    shown = opened("firmware", "staged", "--json").document["staged"]
    assert shown == [{"role": "targets", "signed": [], "missing": 2, "could": ["jiro", "ume"]}]
    refusal = opened("firmware", "publish", "--json", status=3).error
    assert refusal["key"] == "firmware.below-threshold" and refusal["params"]["could"] == "jiro, ume"
    sign(opened, passphrase, "jiro", "ume")
    made = opened("firmware", "publish", "--json").document
    assert made == {"root": None, "targets": 2, "snapshot": 2, "timestamp": 2}
    (row,) = opened("firmware", "list", "--json").document["releases"]
    assert row == {"path": PATH, "version": "2026.1", "counter": 1, "state": "published", "reason": None}
    database = Database(f"sqlite:///{tmp_path / 'state' / 'registry.sqlite'}")
    with database.read() as session:
        (kept,) = releases.every(session, OPERATOR)
        assert (kept.version, kept.counter, kept.path, kept.yanked_at) == ("2026.1", 1, PATH, None)
    # A second one brings a delta, and what is taken back halts before anybody has signed that.
    second = built(opened, tmp_path, 2, "--from", str(first), content=b"same" * 1000 + b"new")
    assert json.loads((second / "release.json").read_text())["counter"] == 2
    opened("firmware", "yank", PATH, "--reason", "It loses the modem.", "--yes")
    with database.read() as session:
        (kept,) = releases.every(session, OPERATOR)
        assert kept.yanked_at is not None and kept.yank_reason == "It loses the modem."
    database.close()
    assert "taken back, staged for signing" in opened("firmware", "list").out
    sign(opened, passphrase, "jiro", "ume")
    opened("firmware", "publish")
    assert opened("firmware", "list", "--json").document["releases"][0]["state"] == "yanked"
    assert opened("firmware", "stage", str(first), "--json", status=2).error["key"] == "firmware.version-taken"


def test_a_slip_of_the_pen_is_told_before_anything_is_packed(kyoten: Kyoten, tmp_path: Path) -> None:
    for name in ("bundle", "slot"):
        (tmp_path / name).write_bytes(b"x" * 4096)
    facts = {"root_hash": "a" * 64, "salt": "b" * 64, "data_blocks": 1, "image_size": 4096, "image_sha256": "c" * 64}
    (tmp_path / "facts").write_text(json.dumps(facts))
    files = ("--bundle", "bundle", "--slot", "slot", "--slot-facts", "facts", "--output", "out")
    line = ("firmware", "build", "--counter", "7", *files, "--minimum-from", "9", "--json")
    error = kyoten(*line, "--hardware", "Box 1", "--version", "v1", status=2).error
    assert {one["params"]["place"] for one in error["problems"]} >= {"hardware", "version"}
    error = kyoten(*line, "--hardware", "box", "--version", "1", status=2).error
    assert error["key"] == "firmware.minimum-above"
    assert not (tmp_path / "out").exists()
    (tmp_path / "facts").write_text("{}")
    fits = (*line, "--hardware", "box", "--version", "1", "--minimum-from", "7")
    assert kyoten(*fits, status=2).error["params"]["count"] == 5
    (tmp_path / "facts").write_text(json.dumps(facts))
    assert kyoten(*fits, status=2).error["key"] == "firmware.slot-other", "root hash and image are of one another"
    facts["image_sha256"] = sha256(b"x" * 4096).hexdigest()
    (tmp_path / "facts").write_text(json.dumps(facts))
    (tmp_path / "bundle").write_bytes(b"of another slot" + b"x" * 4000)
    assert kyoten(*fits, status=2).error["key"] == "firmware.bundle-other", "every router would refuse it"
    assert kyoten(*fits, "--epoch", "99999999999999", status=2).error["key"] == "cli.usage"
    (tmp_path / "slot").unlink()
    assert kyoten(*fits, status=2).error["key"] == "cli.unreadable-file"
    line = ("firmware", "build", "--hardware", "box", "--version", "1", "--counter", "7", "--output", "out", "--json")
    for given in ((), ("--bundle", "bundle"), ("--signing", "."), ("--root", "facts")):
        assert kyoten(*line, *given, status=2).error["key"] == "firmware.nothing-to-build"
    unsigned = kyoten(*line, "--signing", ".", "--root", "facts", status=2).error
    assert unsigned["key"] == "cli.unreadable-file" and unsigned["params"]["path"] == "release.key"


def test_a_trial_release_is_packed_quickly_and_says_so_nowhere_else(kyoten: Kyoten, tmp_path: Path) -> None:
    content = Path(__file__).read_bytes()[:8192]
    quick, small = (
        json.loads((built(kyoten, tmp_path, counter, *more, content=content) / "release.json").read_text())
        for counter, more in ((5, ("--level", "1")), (6, ()))
    )
    assert quick["full"]["size"] > small["full"]["size"]
    assert quick["bundle_sha256"] == small["bundle_sha256"]
    assert quick.keys() == small.keys()


def test_releases_of_hardware_that_nobody_has(opened: Kyoten, tmp_path: Path) -> None:
    output = built(opened, tmp_path, 1)
    document = (output / "release.json").read_text().replace("generic-x86-64", "generic-x86-46")
    (output / "release.json").write_text(document)
    assert opened("firmware", "stage", str(output), "--json", status=2).error["key"] == "firmware.other-hardware"
    (output / "release.json").write_text(document[:-1])
    assert opened("firmware", "stage", str(output), "--json", status=2).error["key"] == "firmware.not-json"
    assert opened("firmware", "stage", "nowhere", "--json", status=2).error["key"] == "firmware.no-release-there"


def test_a_module(opened: Kyoten, passphrase: str, tmp_path: Path) -> None:
    table = '{"modems": {"EC25": {"init": ["AT+QCFG=1"]}}}'
    (tmp_path / "table").write_text(table)
    line = ("firmware", "module", "table", "--name", "quectel", "--version", "1.0", "--counter", "1")
    opened(*line, "--kind", "modem-table", "--output", "module")
    opened("firmware", "stage", "module")
    sign(opened, passphrase, "jiro", "ume")
    opened("firmware", "publish")
    (row,) = opened("firmware", "list", "--json").document["releases"]
    assert row["path"] == "modules/quectel/1.0.json" and row["state"] == "published"
    payload = tmp_path / "state" / "firmware" / "payload" / sha256(table.encode()).hexdigest()
    assert payload.read_text() == table
    opened("firmware", "yank", row["path"], "--reason", "Wrong table.", "--yes")


@pytest.mark.parametrize(
    ("kind", "content", "key"),
    [
        ("modem-tabel", b'{"modems": {}}', "firmware.module-kind"),
        ("modem-table", b'{"modems": 3}', "firmware.module-unfit"),
        ("modem-table", b'{"modems": {"EC25": {"init": ["AT+CFUN=4"]}}}', "firmware.module-unfit"),
        ("ca-bundle", b"root:x:0:0", "firmware.module-unfit"),
        ("plugin", b"def f(:", "firmware.module-unfit"),
        ("plugin", b"#" * (17 << 20), "firmware.module-too-large"),
    ],
)
def test_a_module_that_every_router_would_refuse_is_not_made(
    opened: Kyoten, tmp_path: Path, kind: str, content: bytes, key: str
) -> None:
    (tmp_path / "content").write_bytes(content)
    line = ("firmware", "module", "content", "--name", "quectel", "--version", "1.0", "--counter", "1")
    assert opened(*line, "--kind", kind, "--output", "module", "--json", status=2).error["key"] == key
    assert not (tmp_path / "module").exists()


def test_signing_on_another_machine(begun: Kyoten, passphrase: str, tmp_path: Path) -> None:
    staged = tmp_path / "state" / "firmware" / "staged"
    for name in ("one", "two"):
        subprocess.run(["cp", "-r", str(staged), str(tmp_path / name)], check=True)
    elsewhere = ("--config", "/nonexistent")
    for name, copy in (("hanako", "one"), ("jiro", "one"), ("taro", "two"), ("ume", "two")):
        begun(
            *elsewhere, "firmware", "sign", "--key", f"{name}.key", "--passphrase-file", passphrase,
            "--yes", "--staged", copy,
        )  # fmt: skip
    begun("firmware", "publish", "--signed", "one", status=3)
    subprocess.run(["cp", "-r", str(tmp_path / "two"), str(tmp_path / "torn")], check=True)
    (tmp_path / "torn" / "targets.json").write_text("{")
    error = begun("firmware", "publish", "--signed", "torn", "--json", status=2).error
    assert (error["key"], error["params"]["path"]) == ("firmware.copy-unreadable", "torn/targets.json")
    assert begun("firmware", "publish", "--signed", "two", "--json").document["root"] == 1
    assert begun("firmware", "publish", "--json", status=2).error["key"] == "firmware.nothing-staged"


def test_nobody_signs_without_knowing_what(begun: Kyoten, passphrase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    asked = begun("firmware", "sign", "--key", "hanako.key", "--passphrase-file", passphrase, status=130)
    assert "root 1, good until" in asked.err and "hanako, taro" in asked.err
    assert begun("firmware", "staged", "--json").document["staged"][0]["signed"] == []


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("--key", "hanako.key.pub"), "firmware.key-damaged"),
        (("--key", "none.key"), "firmware.key-missing"),
        (("--key", "hanako.key"), "firmware.no-passphrase"),
        (("--key", "stranger.key"), "firmware.key-not-entitled"),
        (("--key", "pkcs11:object=x"), "pki.token-uri"),
        (("--key", "pkcs11:object=x?module-path=/none.so&pin-source=file:pin"), "firmware.key-token"),
    ],
)
def test_keys_that_do_not_sign(begun: Kyoten, tmp_path: Path, arguments: tuple[str, ...], key: str) -> None:
    begun("firmware", "keys", "make", "stranger", "--output", "stranger.key", "--no-passphrase")
    (tmp_path / "hanako.key.pub").chmod(0o600)
    (tmp_path / "pin").touch(mode=0o600)
    assert begun("firmware", "sign", *arguments, "--yes", "--json", status=None).error["key"] == key


def test_a_passphrase_that_is_wrong_stands_in_no_message(begun: Kyoten, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("not the passphrase\n")
    told = begun("firmware", "sign", "--key", "hanako.key", "--passphrase-file", "wrong", "--yes", status=2)
    assert "does not open hanako.key" in told.err and "not the passphrase" not in told.err


def test_making_keys(kyoten: Kyoten, passphrase: str, tmp_path: Path) -> None:
    line = ("firmware", "keys", "make", "hanako", "--json")
    made = kyoten(*line, "--output", "h.key", "--passphrase-file", passphrase).document
    assert (tmp_path / "h.key").stat().st_mode & 0o777 == 0o600 and len(made["keyid"]) == 64
    for output in ("h.key", "h2.key"):
        (tmp_path / "h2.key.pub").touch()
        error = kyoten(*line, "--output", output, "--no-passphrase", status=2).error
        assert error["key"] == "firmware.key-exists"
    assert kyoten(*line, "--output", "x.key", "--kind", "rsa", status=2).error["key"] == "cli.usage"
    error = kyoten("firmware", "keys", "make", "Hanako", "--output", "x.key", "--json", status=2).error
    assert error["key"] == "firmware.not-a-name"
    assert kyoten(*line, "--output", "x.key", status=2).error["key"] == "firmware.no-passphrase"
    assert not (tmp_path / "x.key").exists()


def test_beginning_with_keys_that_do_not_fit(kyoten: Kyoten, tmp_path: Path) -> None:
    for name in ("hanako", "taro"):
        kyoten("firmware", "keys", "make", name, "--output", f"{name}.key", "--no-passphrase")
    both = ("--targets", "hanako.key.pub", "--targets", "taro.key.pub", "--json")
    line = ("firmware", "keys", "init", "--root", "hanako.key.pub")
    assert kyoten(*line, *both, status=2).error["key"] == "firmware.threshold-unmeetable"
    assert kyoten(*line, "--root", "hanako.key.pub", *both, status=2).error["key"] == "firmware.key-there"
    assert kyoten(*line, "--root", "none.pub", *both, status=2).error["key"] == "cli.unreadable-file"
    error = kyoten(*line, "--root", "taro.key", *both, status=2).error
    assert error["key"] == "firmware.not-json"
    assert not (tmp_path / "state" / "firmware-keys").exists()
    assert "no repository yet" in kyoten("firmware", "keys", "list").out
    kyoten(*line, "--root-threshold", "1", *both)


def test_rotation_and_what_is_left_of_old_keys(opened: Kyoten, passphrase: str, tmp_path: Path) -> None:
    online = tmp_path / "state" / "firmware-keys"
    before = {path.name for path in online.iterdir()}
    opened("firmware", "rotate", "timestamp")
    wanted = opened("firmware", "rotate", "root", "--json").document
    assert wanted == {"root": {"missing": 2, "could": ["hanako", "taro"]}}
    sign(opened, passphrase, "hanako", "taro")
    assert opened("firmware", "publish", "--json").document["root"] == 2
    after = {path.name for path in online.iterdir()}
    assert len(before) == len(after) == 2 and len(before & after) == 1
    rows = opened("firmware", "keys", "list", "--json").document["firmware-keys"]
    assert [row["here"] for row in rows if row["role"] in ("snapshot", "timestamp")] == [True, True]
    opened("firmware", "keys", "root", "--output", "root.json")
    assert json.loads((tmp_path / "root.json").read_text())["signed"]["version"] == 2
    for arguments, key in (
        (("nope",), "unknown-role"),
        (("timestamp", "--remove", "x"), "online-role"),
        (("root", "--remove", "nobody"), "no-such-holder"),
        (("root", "--threshold", "3"), "threshold-unmeetable"),
    ):
        assert opened("firmware", "rotate", *arguments, "--json", status=2).error["key"] == f"firmware.{key}"
    assert "targets: 2 (jiro, ume)" in opened("firmware", "renew", "targets").out
    assert opened("firmware", "renew", "snapshot", "--json", status=2).error["key"] == "firmware.unknown-role"


def test_what_has_begun_is_not_begun_anew_without_a_question(begun: Kyoten, tmp_path: Path) -> None:
    staged = tmp_path / "state" / "firmware" / "staged" / "root.json"
    before = staged.read_bytes()
    line = ("firmware", "keys", "init", "--root", "hanako.key.pub", "--root", "taro.key.pub")
    targets = ("--targets", "jiro.key.pub", "--targets", "ume.key.pub")
    assert begun(*line, *targets, "--json", status=None).status != 0
    assert staged.read_bytes() == before
    begun(*line, *targets, "--yes")


def test_a_key_makes_no_directories(kyoten: Kyoten, passphrase: str, tmp_path: Path) -> None:
    line = ("firmware", "keys", "make", "hanako", "--output", "nowhere/hanako.key", "--passphrase-file", passphrase)
    assert kyoten(*line, "--json", status=2).error["key"] == "firmware.key-unwritable"
    assert not (tmp_path / "nowhere").exists()


def test_permits(opened: Kyoten, passphrase: str, tmp_path: Path) -> None:
    line = ("firmware", "permit", "make", "--hardware", "generic-x86-64", "--site", "tokyo-1", "--json")
    opened(*line, "--from", "5", "--to", "3", "--for", "7d")
    opened("firmware", "keys", "root", "--output", "root.json")
    key = ("--passphrase-file", passphrase, "--yes", "--json")
    signing = ("firmware", "permit", "sign", "downgrade.permit", *key)
    rollout = ("rollout", "start", "2026.1", "--permit", "downgrade.permit", "--yes", "--json")
    assert opened(*rollout, status=2).error["key"] == "rollout.permit-unsigned"
    assert opened(*signing, "--key", "jiro.key").document["missing"] == 1
    assert opened(*rollout, status=2).error["params"] == {"missing": 1, "could": "ume"}
    assert opened(*signing, "--key", "hanako.key", status=2).error["key"] == "firmware.key-not-entitled"
    away = opened("--config", "/nonexistent", *signing, "--key", "ume.key", "--root", "root.json")
    assert away.document["missing"] == 0
    shown = opened("firmware", "permit", "show", "downgrade.permit", "--json").document
    assert (shown["from_counter"], shown["to_counter"], shown["missing"]) == (5, 3, 0)
    assert opened(*rollout, status=2).error["key"] == "registry.unknown-version"
    for arguments, wrong in (
        (("--from", "3", "--to", "5", "--for", "7d"), "firmware.permit-upwards"),
        (("--from", "5", "--to", "3", "--for", "31d"), "firmware.permit-long"),
        (("--from", "5", "--to", "0", "--for", "7d"), "firmware.out-of-range"),
        (("--from", "5", "--to", "3", "--for", "week"), "cli.bad-duration"),
    ):
        assert opened(*line, *arguments, status=2).error["key"] == wrong
    (tmp_path / "downgrade.permit").write_text("{}")
    assert opened(*rollout, status=2).error["params"]["count"] >= 2
    assert opened(*signing, "--key", "jiro.key", status=2).error["params"]["count"] >= 2


def test_what_the_worker_does_by_itself(opened: Kyoten, tmp_path: Path) -> None:
    chores = {chore.name: chore for chore in firmware_upkeep.chores(Cli(tmp_path / "kyoten.toml"))}
    metadata = tmp_path / "state" / "firmware" / "metadata"

    def version() -> int:
        return int(json.loads((metadata / "timestamp.json").read_text())["signed"]["version"])

    now = datetime.now(UTC)
    chores["firmware-metadata"].run(now)
    assert version() == 1
    chores["firmware-metadata"].run(now + timedelta(hours=25))
    assert version() == 2
    chores["firmware-signatures"].run(now)
    with pytest.raises(RefusedError) as caught:
        chores["firmware-signatures"].run(now + timedelta(days=70))
    assert caught.value.key == "firmware.expires-soon" and caught.value.params["role"] == "targets"
    # A node that serves without keys renews nothing and complains of nothing.
    (tmp_path / "state" / "firmware-keys").rename(tmp_path / "keys")
    chores["firmware-metadata"].run(now + timedelta(hours=60))
    assert version() == 2
    assert opened("firmware", "refresh", "--json").document["timestamp"] is None


def test_a_node_without_a_repository(kyoten: Kyoten, tmp_path: Path) -> None:
    for chore in firmware_upkeep.chores(Cli(tmp_path / "kyoten.toml")):
        chore.run(datetime.now(UTC))
    assert not (tmp_path / "state" / "firmware").exists()
    assert kyoten("firmware", "refresh", "--json", status=4).error["key"] == "firmware.repository-empty"
    assert kyoten("firmware", "rotate", "timestamp", "--json", status=4).error["key"] == "firmware.repository-empty"
    assert not (tmp_path / "state" / "firmware-keys").exists()


def test_tenants_have_no_business_here(world: Kyoten) -> None:
    for line in (("list",), ("publish",), ("yank", PATH, "--reason", "x", "--yes"), ("keys", "list"), ("refresh",)):
        error = world("--tenant", "acme", "firmware", *line, "--json", status=3).error
        assert error["key"] == "registry.operators-only"


def test_a_holder_s_key_in_a_token(kyoten: Kyoten, passphrase: str, tmp_path: Path) -> None:
    # SoftHSM reads its configuration once a process: in a process of its own.
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    (tmp_path / "pin").touch(mode=0o600)
    (tmp_path / "pin").write_text("1234\n")
    environment = {**os.environ, "SOFTHSM2_CONF": str(tmp_path / "softhsm.conf")}
    argv = ["softhsm2-util", "--init-token", "--free", "--label", "kyoten", "--pin", "1234", "--so-pin", "4321"]
    subprocess.run(argv, check=True, capture_output=True, env=environment)
    uri = f"pkcs11:token=kyoten;object=hanako?module-path={MODULE}&pin-source=file:{tmp_path / 'pin'}"

    def away(*arguments: str) -> str:
        command = [sys.executable, "-m", "cloudside.cli.main", "--config", str(tmp_path / "kyoten.toml"), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    away("firmware", "keys", "make", "hanako", "--output", "hanako", "--token", uri)
    assert not (tmp_path / "hanako").exists() and (tmp_path / "hanako.pub").exists()
    kyoten("firmware", "keys", "make", "taro", "--output", "taro.key", "--passphrase-file", passphrase)
    holders = ("--root", "hanako.pub", "--root", "taro.key.pub", "--targets", "hanako.pub", "--targets", "taro.key.pub")
    kyoten("firmware", "keys", "init", *holders)
    assert "root, targets" in away("firmware", "sign", "--key", uri, "--yes")
    sign(kyoten, passphrase, "taro")
    assert kyoten("firmware", "publish", "--json").document["root"] == 1
