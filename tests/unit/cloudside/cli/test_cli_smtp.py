"""`kyoten smtp`: passwords come on standard input and are shown nowhere; logins are bound, rotated and revoked."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudside.mail.intake import cram
from cloudside.registry import credentials
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.tables import SmtpCredential

Kyoten = Callable[..., Any]
Typed = Callable[[str], None]
BIRCH = ("--tenant", "birch")
OLD, NEW = "the old password", "the new password"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """What stands on standard input."""
    return lambda words: monkeypatch.setattr("sys.stdin", io.StringIO(f"{words}\n"))


@pytest.fixture
def cram_on(tmp_path: Path) -> Path:
    """The installation's configuration offers CRAM-MD5; where its key will be."""
    path = tmp_path / "kyoten.toml"
    path.write_text(path.read_text() + "[relay]\ncram_md5 = true\n")
    return tmp_path / "state" / "mail" / cram.FILE_NAME


def kept(directory: Path, user: str) -> SmtpCredential:
    database = Database(f"sqlite:///{directory / 'state' / 'registry.sqlite'}")
    with database.read() as session:
        found = credentials.get(session, OPERATOR, user)
    database.close()
    return found


def row_of(kyoten: Kyoten, user: str) -> dict[str, Any]:
    rows = kyoten("smtp", "list", "--json").document["smtp-users"]
    found: dict[str, Any] = next(row for row in rows if row["user"] == user)
    return found


def test_a_login_is_bound_to_a_device_places_and_addresses(world: Kyoten, typed: Typed) -> None:
    typed(OLD)
    words = ("--device", "plc", "--source", "10.0.0.20", "--sender", "plc@acme.test", "--recipient", "@acme.test")
    made = world("smtp", "add-user", "tokyo-1", "plc", *words, "--json")
    assert OLD not in made.out + made.err
    assert (made.document["sources"], made.document["cram_md5"]) == (["10.0.0.20/32"], False)
    row = row_of(world, "plc")
    assert (row["device"], row["senders"], row["recipients"]) == ("plc", ["plc@acme.test"], ["@acme.test"])
    world("smtp", "restrict", "plc", "--any-source", "--sender", "@acme.test", "--device", "none")
    row = row_of(world, "plc")
    assert (row["device"], row["sources"], row["senders"]) == ("", [], ["@acme.test"])
    assert row["recipients"] == ["@acme.test"]


def test_the_old_password_stays_good_for_a_time(world: Kyoten, typed: Typed, tmp_path: Path) -> None:
    typed(OLD)
    world("smtp", "add-user", "tokyo-1", "plc")
    typed(NEW)
    said = world("smtp", "rotate", "plc").out
    assert "good until" in said and NEW not in said
    row = kept(tmp_path, "plc")
    assert credentials.proves_password(row, NEW) and row.previous_hash is not None
    assert row_of(world, "plc")["old_until"] is not None
    typed("a third password")
    assert "not good any more" in world("smtp", "rotate", "plc", "--grace", "none").out
    assert kept(tmp_path, "plc").previous_hash is None
    assert row_of(world, "plc")["old_until"] is None


def test_a_readable_password_needs_the_relays_leave_and_its_key(world: Kyoten, typed: Typed, tmp_path: Path) -> None:
    typed(OLD)
    error = world("smtp", "add-user", "tokyo-1", "plc", "--cram-md5", "--json", status=2).error
    assert error["key"] == "cli.cram-md5-off"
    assert world("smtp", "list", "--json").document["smtp-users"] == []
    assert not (tmp_path / "state" / "mail" / cram.FILE_NAME).exists()


def test_a_readable_password_is_sealed_and_follows_a_rotation(
    world: Kyoten, typed: Typed, tmp_path: Path, cram_on: Path
) -> None:
    typed(OLD)
    assert world("smtp", "add-user", "tokyo-1", "plc", "--cram-md5", "--json").document["cram_md5"] is True
    assert cram_on.stat().st_mode & 0o777 == 0o600
    seal, secret = cram.seal(cram_on), kept(tmp_path, "plc").cram_secret
    assert secret is not None and OLD not in secret and seal.decrypt(secret) == OLD.encode()
    typed(NEW)
    assert "CRAM-MD5" in world("smtp", "rotate", "plc").out
    secret = kept(tmp_path, "plc").cram_secret
    assert secret is not None and seal.decrypt(secret) == NEW.encode()
    typed("a third password")
    world("smtp", "rotate", "plc", "--no-cram-md5")
    assert kept(tmp_path, "plc").cram_secret is None


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("add-user", "tokio-1", "x"), "registry.unknown-site"),
        (("add-user", "tokyo-1", "plc"), "registry.smtp-user-exists"),
        (("add-user", "tokyo-1", "10.0.0.1"), "registry.bad-smtp-user"),
        (("add-user", "tokyo-1", "x", "--device", "chiller"), "registry.unknown-device"),
        (("add-user", "tokyo-1", "x", "--source", "192.168.1.20"), "registry.smtp-source-lan"),
        (("add-user", "tokyo-1", "x", "--sender", "acme"), "registry.bad-mail-pattern"),
        (("rotate", "nobody"), "registry.unknown-smtp-user"),
        (("rotate", "plc", "--grace", "long"), "cli.bad-duration"),
        (("rotate", "plc", "--grace", "91d"), "registry.bad-password-grace"),
        (("rotate", "gone"), "registry.smtp-user-revoked"),
        (("restrict", "plc"), "cli.smtp-restrict-nothing"),
        (("restrict", "plc", "--source", "10.0.0.1", "--any-source"), "cli.list-or-any"),
        (("restrict", "plc", "--source", "10.0.0.1/8"), "registry.prefix-host-bits"),
        (("restrict", "gone", "--any-source"), "registry.smtp-user-revoked"),
        (("restrict", "nobody", "--any-source"), "registry.unknown-smtp-user"),
        (("revoke-user", "nobody"), "registry.unknown-smtp-user"),
        (("list", "tokio-1"), "registry.unknown-site"),
    ],
)
def test_what_is_wrong_is_said(world: Kyoten, typed: Typed, words: tuple[str, ...], key: str) -> None:
    for user in ("plc", "gone"):
        typed(OLD)
        world("smtp", "add-user", "tokyo-1", user)
    world("smtp", "revoke-user", "gone")
    before = world("smtp", "list", "--json").document
    typed(NEW)
    ended = world("smtp", *words, "--json", status=2)
    assert ended.error["key"] == key
    assert NEW not in ended.err
    assert world("smtp", "list", "--json").document == before


def test_the_same_or_a_short_password_is_refused(world: Kyoten, typed: Typed) -> None:
    typed(OLD)
    world("smtp", "add-user", "tokyo-1", "plc")
    for password, key in ((OLD, "registry.same-password"), ("hunter2", "registry.short-password")):
        typed(password)
        ended = world("smtp", "rotate", "plc", "--json", status=2)
        assert ended.error["key"] == key and password not in ended.err


def test_a_tenant_has_its_own_logins(world: Kyoten, typed: Typed) -> None:
    typed(OLD)
    world("smtp", "add-user", "tokyo-1", "plc")
    assert world(*BIRCH, "smtp", "list", "--json").document["smtp-users"] == []
    typed(NEW)
    for words in (("rotate", "plc"), ("restrict", "plc", "--any-source"), ("revoke-user", "plc")):
        assert world(*BIRCH, "smtp", *words, "--json", status=2).error["key"] == "registry.unknown-smtp-user"
    assert world("smtp", "list", "tokyo-1", "--json").document["smtp-users"][0]["revoked"] is None
