"""Limits, holds, profiles and suppressed addresses: what can be stated, by whom, and what is refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudside.errors import InputError, InputErrors, RefusedError
from cloudside.registry import (
    audit,
    credentials,
    mail_holds,
    mail_limits,
    mail_profiles,
    mail_scopes,
    sites,
    suppressions,
)
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.database import Database
from cloudside.registry.tables import MailLimit

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
ACME = Caller("acme")
DEFAULTS = mail_limits.Defaults(hourly=60, daily=500)


def keys_of(error: InputError) -> list[str]:
    return [problem.key for problem in error.problems] if isinstance(error, InputErrors) else [error.key]


@pytest.mark.parametrize(
    ("scope", "name", "tenant", "origin"),
    [
        ("tenant", "acme", "acme", None),
        ("site", "tokyo-1", "acme", "tokyo-1"),
        ("site", "server/web", None, "server/web"),
        ("device", "plc-mail", "acme", "tokyo-1"),
        ("device", "10.10.0.20", "acme", "tokyo-1"),
        ("device", "10.254.0.10", None, "server/web"),
    ],
)
def test_whose_mail_it_is(populated: Database, scope: str, name: str, tenant: str | None, origin: str | None) -> None:
    with populated.write() as s:
        credentials.issue(s, OPERATOR, site_id="tokyo-1", user="plc-mail", password="correct horse", now=NOW)
        found = mail_scopes.subject(s, OPERATOR, scope, name)
        assert (found.scope, found.name, found.tenant, found.origin) == (scope, name, tenant, origin)
        if tenant is None:
            with pytest.raises(RefusedError, match="operators-only"):
                mail_scopes.subject(s, ACME, scope, name)
        else:
            assert mail_scopes.subject(s, ACME, scope, name) == found


@pytest.mark.parametrize(
    ("scope", "name", "problem"),
    [
        ("building", "tokyo-1", "registry.bad-mail-scope"),
        ("tenant", "acmee", "registry.unknown-tenant"),
        ("site", "tokio-1", "registry.unknown-site"),
        ("site", "server/wep", "registry.unknown-server"),
        ("device", "nobody", "registry.unknown-smtp-user"),
        ("device", "10.99.0.1", "registry.unknown-mail-address"),
        ("device", "fd00::1", "registry.unknown-mail-address"),
    ],
)
def test_a_name_that_is_wrong_is_said(populated: Database, scope: str, name: str, problem: str) -> None:
    with populated.write() as s, pytest.raises(InputError) as caught:
        mail_limits.set_limit(s, OPERATOR, scope=scope, name=name, hourly=1, daily=2)
    assert caught.value.key == problem


def test_a_limit_is_stated_raised_and_taken_away(populated: Database) -> None:
    with populated.write() as s:
        row = mail_limits.set_limit(s, ACME, scope="site", name="tokyo-1", hourly=10, daily=None, action="hold")
        assert mail_limits.in_force(row, NOW) == {"hourly": 10, "daily": None}
        row = mail_limits.raise_limit(
            s, ACME, scope="site", name="tokyo-1", times=3, until=NOW + DAY, now=NOW, defaults=DEFAULTS
        )
        assert (row.hourly, row.action) == (10, "hold")
        assert mail_limits.in_force(row, NOW) == {"hourly": 30, "daily": None}
        assert mail_limits.in_force(row, NOW + DAY) == {"hourly": 10, "daily": None}
        # What is stated holds: a raise that was of the old limit is over.
        row = mail_limits.set_limit(s, ACME, scope="site", name="tokyo-1", hourly=12, daily=100)
        assert mail_limits.in_force(row, NOW) == {"hourly": 12, "daily": 100}
        mail_limits.remove(s, ACME, scope="site", name="tokyo-1")
        assert mail_limits.every(s, OPERATOR) == []
    with populated.read() as s:
        told = audit.latest(s, ACME, most=10, subject="site/tokyo-1")
    assert [entry.action for entry in told] == ["removed", "changed", "changed", "added"]


def test_raising_what_a_site_has_by_default_makes_it_the_sites_own(populated: Database) -> None:
    def raised(name: str) -> MailLimit:
        return mail_limits.raise_limit(
            s, OPERATOR, scope="site", name=name, times=2, until=NOW + DAY, now=NOW, defaults=DEFAULTS
        )

    with populated.write() as s:
        sites.change(s, OPERATOR, site_id="osaka-1", mail_hourly_limit=700)
        assert mail_limits.in_force(raised("tokyo-1"), NOW) == {"hourly": 120, "daily": 1000}
        assert mail_limits.in_force(raised("osaka-1"), NOW) == {"hourly": 1400, "daily": 1400}
        assert mail_limits.in_force(raised("server/web"), NOW) == {"hourly": 120, "daily": 1000}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"times": 1}, "registry.bad-mail-raise"),
        ({"times": 101}, "registry.bad-mail-raise"),
        ({"until": NOW}, "registry.bad-mail-raise-end"),
        ({"until": NOW + timedelta(days=7, seconds=1)}, "registry.bad-mail-raise-end"),
        ({"scope": "tenant", "name": "acme"}, "registry.no-mail-limit"),
        ({"name": "osaka-1"}, "registry.no-mail-limit-to-raise"),
    ],
)
def test_a_raise_that_is_wrong_is_refused(populated: Database, change: dict[str, Any], problem: str) -> None:
    given: dict[str, Any] = {"scope": "site", "name": "tokyo-1", "times": 2, "until": NOW + DAY}
    with populated.write() as s:
        mail_limits.set_limit(s, OPERATOR, scope="site", name="osaka-1", hourly=None, daily=None)
        with pytest.raises(InputError) as caught:
            mail_limits.raise_limit(s, OPERATOR, now=NOW, defaults=DEFAULTS, **(given | change))
        assert keys_of(caught.value) == [problem]
        assert len(mail_limits.every(s, OPERATOR)) == 1


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({"hourly": 0, "daily": -1}, ["registry.bad-mail-count"] * 2),
        ({"hourly": mail_limits.COUNT_MAX + 1, "daily": None}, ["registry.bad-mail-count"]),
        ({"hourly": 10, "daily": 9}, ["registry.mail-limit-order"]),
        ({"action": "explode"}, ["registry.bad-mail-action"]),
    ],
)
def test_a_limit_that_is_wrong_is_refused_and_the_one_before_stands(
    populated: Database, change: dict[str, Any], problems: list[str]
) -> None:
    given: dict[str, Any] = {"scope": "site", "name": "tokyo-1", "hourly": 10, "daily": 20, "action": "notify"}
    with populated.write() as s:
        mail_limits.set_limit(s, OPERATOR, **given)
        with pytest.raises(InputError) as caught:
            mail_limits.set_limit(s, OPERATOR, **(given | change))
        assert keys_of(caught.value) == problems
        row = mail_limits.find(s, OPERATOR, scope="site", name="tokyo-1")
        assert row is not None and (row.hourly, row.daily, row.action) == (10, 20, "notify")


def test_a_tenants_own_limit_is_the_operators_to_state(populated: Database) -> None:
    with populated.write() as s:
        mail_limits.set_limit(s, OPERATOR, scope="tenant", name="acme", hourly=10, daily=20)
        with pytest.raises(RefusedError, match="mail-limit-operators"):
            mail_limits.set_limit(s, ACME, scope="tenant", name="acme", hourly=99, daily=99)
        with pytest.raises(RefusedError, match="mail-limit-operators"):
            mail_limits.raise_limit(
                s, ACME, scope="tenant", name="acme", times=2, until=NOW + DAY, now=NOW, defaults=DEFAULTS
            )
        with pytest.raises(RefusedError, match="mail-limit-operators"):
            mail_limits.remove(s, ACME, scope="tenant", name="acme")
        assert [row.hourly for row in mail_limits.every(s, ACME)] == [10]


def test_what_operators_hold_a_tenant_cannot_release(populated: Database) -> None:
    with populated.write() as s:
        mail_holds.put(s, OPERATOR, scope="site", name="tokyo-1", reason="spam", author="ops", now=NOW)
        with pytest.raises(RefusedError) as caught:
            mail_holds.take_away(s, ACME, scope="site", name="tokyo-1")
        assert (caught.value.key, caught.value.params["reason"]) == ("registry.mail-hold-imposed", "spam")
        with pytest.raises(RefusedError, match="imposed"):  # nor make it its own first
            mail_holds.put(s, ACME, scope="site", name="tokyo-1", reason="mine", author="ann", now=NOW)
        mail_holds.take_away(s, OPERATOR, scope="site", name="tokyo-1")
        mail_holds.put(s, ACME, scope="site", name="tokyo-1", reason=" mine ", author="ann", now=NOW)
        row = mail_holds.put(s, ACME, scope="site", name="tokyo-1", reason="again", author="bob", now=NOW + DAY)
        assert (row.reason, row.author, row.since, row.imposed) == ("again", "bob", NOW, False)
        mail_holds.take_away(s, ACME, scope="site", name="tokyo-1")
        with pytest.raises(InputError, match="no-mail-hold"):
            mail_holds.take_away(s, ACME, scope="site", name="tokyo-1")


@pytest.mark.parametrize(
    ("held", "origins", "device", "refused"),
    [
        (("tenant", "acme"), ("tokyo-2",), "", True),
        (("site", "tokyo-1"), None, "", True),
        (("site", "tokyo-1"), ("tokyo-1",), "", True),
        (("site", "tokyo-1"), ("tokyo-2",), "", False),
        (("site", "tokyo-1"), None, "one", True),
        (("site", "tokyo-1"), None, "two", False),
        (("device", "one"), ("tokyo-1",), "", True),
        (("device", "one"), ("tokyo-2",), "", False),
        (("device", "one"), None, "one", True),
        (("device", "one"), None, "two", False),
        (("site", "osaka-1"), None, "", False),
    ],
)
def test_which_releases_an_operators_hold_forbids_a_tenant(
    populated: Database, held: tuple[str, str], origins: tuple[str, ...] | None, device: str, refused: bool
) -> None:
    with populated.write() as s:
        sites.add(s, OPERATOR, site_id="tokyo-2", tenant_id="acme", now=NOW)
        for user, site in (("one", "tokyo-1"), ("two", "tokyo-2")):
            credentials.issue(s, OPERATOR, site_id=site, user=user, password="correct horse", now=NOW)
        mail_holds.put(s, OPERATOR, scope=held[0], name=held[1], reason="spam", author="ops", now=NOW)
        if refused:
            with pytest.raises(RefusedError, match="imposed"):
                mail_holds.require_release(s, ACME, origins=origins, device=device)
        else:
            mail_holds.require_release(s, ACME, origins=origins, device=device)
        mail_holds.require_release(s, OPERATOR, origins=origins, device=device)


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501])
def test_a_hold_has_a_reason(populated: Database, reason: str) -> None:
    with populated.write() as s, pytest.raises(InputError, match="mail-hold-reason"):
        mail_holds.put(s, OPERATOR, scope="site", name="tokyo-1", reason=reason, author="ops", now=NOW)


def test_a_profile_has_defaults_until_something_is_stated(populated: Database) -> None:
    with populated.write() as s:
        row = mail_profiles.get(s, ACME, "tokyo-1")
        assert (row.notify, row.old_tls, row.senders, row.recipients, row.silent_after_s) == (None, False, [], [], None)
    with populated.write() as s:
        assert mail_profiles.every(s, OPERATOR) == []  # looking keeps nothing
        mail_profiles.change(s, ACME, site_id="tokyo-1", notify="Ops@Acme.Test", silent_after=timedelta(hours=26))
        row = mail_profiles.change(s, ACME, site_id="tokyo-1", old_tls=True, senders=["@acme.test"])
        assert (row.notify, row.old_tls, row.senders, row.silent_after_s) == (
            "ops@acme.test", True, ["@acme.test"], 26 * 3600,
        )  # fmt: skip
        row = mail_profiles.change(
            s, ACME, site_id="tokyo-1", notify="", senders=[], silent_after=timedelta(0), old_tls=False
        )
        assert (row.notify, row.old_tls, row.senders, row.silent_after_s) == (None, False, [], None)
        assert [found.site_id for found in mail_profiles.every(s, ACME)] == ["tokyo-1"]


def test_a_profile_that_is_wrong_is_refused_whole(populated: Database) -> None:
    with pytest.raises(InputErrors) as caught, populated.write() as s:
        mail_profiles.change(
            s,
            OPERATOR,
            site_id="tokyo-1",
            old_tls=True,
            notify="ops",
            senders=["acme"],
            silent_after=timedelta(minutes=9),
        )
    assert keys_of(caught.value) == [
        "registry.bad-mail-address",
        "registry.bad-mail-pattern",
        "registry.bad-mail-silence",
    ]
    with populated.read() as s:
        assert mail_profiles.every(s, OPERATOR) == []


def suppress(session: Any, *, expires_at: datetime | None, now: datetime = NOW, **more: Any) -> Any:
    given: dict[str, Any] = {"tenant_id": "acme", "address": "Bob@X.Test", "cause": "bounce", "reason": "550 no such"}
    return suppressions.add(session, OPERATOR, author="relay", now=now, expires_at=expires_at, **(given | more))


def test_a_suppression_is_never_shortened(populated: Database) -> None:
    with populated.write() as s:
        row = suppress(s, expires_at=NOW + DAY, message="00000000000000ff")
        assert (row.address, row.message) == ("bob@x.test", "00000000000000ff")
        assert suppress(s, expires_at=NOW + DAY / 2, reason="other").reason == "550 no such"
        row = suppress(s, expires_at=NOW + 2 * DAY, reason="again", now=NOW + DAY / 2)
        assert (row.reason, row.created_at, row.expires_at) == ("again", NOW, NOW + 2 * DAY)
        assert suppress(s, expires_at=None, cause="complaint").cause == "complaint"
        row = suppress(s, expires_at=NOW + 9 * DAY)
        assert (row.cause, row.expires_at) == ("complaint", None)
        assert len(suppressions.every(s, ACME)) == 1


def test_a_suppression_that_is_over_counts_no_more_and_is_forgotten(populated: Database) -> None:
    with populated.write() as s:
        suppress(s, expires_at=NOW + DAY)
        suppress(s, expires_at=NOW + 2 * DAY, address="c@x.test")
        suppress(s, expires_at=None, address="d@x.test")
        then = NOW + DAY
        assert [row.address for row in suppressions.every(s, ACME, now=then)] == ["c@x.test", "d@x.test"]
        row = suppress(s, expires_at=then + DAY / 2, now=then, reason="later")  # begins anew
        assert (row.created_at, row.reason) == (then, "later")
        assert suppressions.prune(s, OPERATOR, now=then) == 0
        assert suppressions.prune(s, OPERATOR, now=NOW + 3 * DAY) == 2
        assert [row.address for row in suppressions.every(s, ACME)] == ["d@x.test"]
        assert suppressions.every(s, OPERATOR, address="D@X.test", tenant_id="acme") != []
        suppressions.remove(s, ACME, tenant_id="acme", address="D@x.test")
        with pytest.raises(InputError, match="not-suppressed"):
            suppressions.remove(s, ACME, tenant_id="acme", address="d@x.test")


def test_the_same_address_is_on_each_tenants_own_list(populated: Database) -> None:
    with populated.write() as s:
        for tenant in ("acme", "zenith", ""):
            suppress(s, expires_at=None, tenant_id=tenant)
        suppressions.remove(s, OPERATOR, tenant_id="acme", address="bob@x.test")
        assert [row.tenant_id for row in suppressions.every(s, OPERATOR)] == ["", "zenith"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tenant_id": "acmee"}, "registry.unknown-tenant"),
        ({"address": "bob"}, "registry.bad-mail-address"),
        ({"cause": "mood"}, "registry.bad-suppression-cause"),
        ({"expires_at": NOW}, "registry.suppression-is-over"),
    ],
)
def test_a_suppression_that_is_wrong_is_refused(populated: Database, change: dict[str, Any], problem: str) -> None:
    with populated.write() as s:
        with pytest.raises(InputError) as caught:
            suppress(s, **({"expires_at": None} | change))
        assert keys_of(caught.value) == [problem]
        assert suppressions.every(s, OPERATOR) == []
