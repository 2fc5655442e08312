"""Mail logins: rotated with a grace, bound to places and addresses, readable for CRAM-MD5 only when asked."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from cloudside.errors import InputError, InputErrors
from cloudside.registry import audit, credentials
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.tables import SmtpCredential

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=2)
OLD, NEW = "the old password", "the new password"


def issued(session: Session, **more: Any) -> SmtpCredential:
    return credentials.issue(session, OPERATOR, site_id="tokyo-1", user="plc", password=OLD, now=NOW, **more)


def test_the_old_password_is_good_for_as_long_as_was_said(populated: Database) -> None:
    with populated.write() as s:
        before = issued(s).password_hash
        row = credentials.rotate(s, OPERATOR, user="plc", password=NEW, now=NOW, good_until=LATER)
        assert credentials.proves_password(row, NEW) and not credentials.proves_password(row, OLD)
        assert (row.previous_hash, row.previous_until, row.rotated_at) == (before, LATER, NOW)
        # A stolen one is no longer good: without a grace the one before goes as well.
        row = credentials.rotate(s, OPERATOR, user="plc", password="the third password", now=NOW)
        assert (row.previous_hash, row.previous_until) == (None, None)


@pytest.mark.parametrize(
    ("password", "good_until", "problem"),
    [
        (OLD, None, "registry.same-password"),
        ("hunter2", None, "registry.short-password"),
        (NEW, NOW, "registry.bad-password-grace"),
        (NEW, NOW + credentials.LONGEST_GRACE + timedelta(seconds=1), "registry.bad-password-grace"),
    ],
)
def test_a_rotation_that_is_wrong_changes_nothing(
    populated: Database, password: str, good_until: datetime | None, problem: str
) -> None:
    with populated.write() as s:
        issued(s)
    with pytest.raises(InputError) as caught, populated.write() as s:
        credentials.rotate(s, OPERATOR, user="plc", password=password, now=NOW, good_until=good_until)
    assert caught.value.key == problem
    assert password not in str(caught.value)
    with populated.read() as s:
        row = credentials.get(s, OPERATOR, "plc")
    assert credentials.proves_password(row, OLD) and row.rotated_at is None


def test_a_password_is_readable_only_when_asked_and_never_in_the_audit_log(populated: Database) -> None:
    def encrypt(password: str) -> str:
        return f"encrypted {len(password)}"

    with populated.write() as s:
        assert issued(s, encrypt=encrypt).cram_secret == "encrypted 16"
        row = credentials.rotate(s, OPERATOR, user="plc", password=NEW, now=NOW, good_until=LATER, encrypt=encrypt)
        assert row.cram_secret == "encrypted 16"
        # The old password cannot be read any more, so a rotation without the key ends CRAM-MD5.
        row = credentials.rotate(s, OPERATOR, user="plc", password="a third password", now=NOW)
        assert row.cram_secret is None
    with populated.read() as s:
        entries = audit.latest(s, OPERATOR, most=10, subject="plc")
    assert [entry.action for entry in entries] == ["changed", "changed", "added"]
    told = str([(entry.before, entry.after) for entry in entries])
    assert "encrypted" not in told and "argon2" not in told and "***" in told


def test_restrictions_are_stated_changed_and_taken_away(populated: Database) -> None:
    with populated.write() as s:
        row = issued(
            s,
            device="plc",
            sources=["10.10.0.20", "10.10.0.0/24", "10.10.0.20/32"],
            senders=["PLC@Acme.Test", "@acme.test"],
            recipients=["ops@acme.test"],
        )
        assert row.sources == ["10.10.0.20/32", "10.10.0.0/24"]
        assert row.senders == ["plc@acme.test", "@acme.test"]
        row = credentials.restrict(s, OPERATOR, user="plc", recipients=[], sources=["10.10.0.21"])
        assert (row.device, row.recipients, row.sources) == ("plc", [], ["10.10.0.21/32"])
        assert row.senders == ["plc@acme.test", "@acme.test"]
        row = credentials.restrict(s, OPERATOR, user="plc", device="", senders=[])
        assert (row.device, row.senders) == ("", [])


Act = Callable[[Session], object]


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        ({"sources": ["10.10.0.5/24"]}, ["registry.prefix-host-bits"]),
        ({"sources": ["here", "192.168.1.20"]}, ["registry.not-a-prefix", "registry.smtp-source-lan"]),
        ({"sources": [f"10.10.0.{n}" for n in range(101)]}, ["registry.many-smtp-sources"]),
        ({"senders": ["acme.test", "@", "a b@x.test", ""]}, ["registry.bad-mail-pattern"] * 4),
        ({"recipients": [f"a{n}@x.test" for n in range(101)]}, ["registry.many-mail-patterns"]),
        ({"device": "chiller"}, ["registry.unknown-device"]),
    ],
)
def test_a_restriction_that_is_wrong_is_refused_whole(
    populated: Database, given: dict[str, Any], problems: list[str]
) -> None:
    with populated.write() as s:
        credentials.issue(s, OPERATOR, site_id="tokyo-1", user="there", password=OLD, now=NOW)
    acts: list[Act] = [
        lambda s: issued(s, **given),
        lambda s: credentials.restrict(s, OPERATOR, user="there", **{"senders": ["@ok.test"], **given}),
    ]
    for act in acts:
        with pytest.raises(InputError) as caught, populated.write() as s:
            act(s)
        found = caught.value.problems if isinstance(caught.value, InputErrors) else (caught.value,)
        assert [problem.key for problem in found] == problems
    with populated.read() as s:
        assert [row.user for row in credentials.every(s, OPERATOR)] == ["there"]
        assert credentials.get(s, OPERATOR, "there").senders == []


@pytest.mark.parametrize("user", ["10.0.0.1", "fd00::1"])
def test_a_user_name_is_never_an_address(populated: Database, user: str) -> None:
    with populated.write() as s, pytest.raises(InputError, match="bad-smtp-user"):
        credentials.issue(s, OPERATOR, site_id="tokyo-1", user=user, password=OLD, now=NOW)


def test_a_revoked_login_stays_as_it_is(populated: Database) -> None:
    with populated.write() as s:
        issued(s)
        credentials.revoke(s, OPERATOR, user="plc", now=NOW)
        assert credentials.revoke(s, OPERATOR, user="plc", now=LATER).revoked_at == NOW
        with pytest.raises(InputError, match="smtp-user-revoked"):
            credentials.rotate(s, OPERATOR, user="plc", password=NEW, now=NOW)
        with pytest.raises(InputError, match="smtp-user-revoked"):
            credentials.restrict(s, OPERATOR, user="plc", senders=["@x.test"])
        assert [row.user for row in credentials.every(s, OPERATOR)] == ["plc"]
