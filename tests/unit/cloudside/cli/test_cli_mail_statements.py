"""`kyoten mail limits`, `profile`, `suppressions`: what is stated, shown and refused."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

Kyoten = Callable[..., Any]
ACME, BIRCH = ("--tenant", "acme"), ("--tenant", "birch")
TOKYO = ("--site", "tokyo-1")


def limit_of(kyoten: Kyoten, *words: str) -> dict[str, Any]:
    document: dict[str, Any] = kyoten("mail", "limits", "show", *words, "--json").document
    return document


def test_a_site_has_the_relays_limit_until_it_has_its_own(world: Kyoten) -> None:
    document = limit_of(world, *TOKYO)
    assert (document["hourly"], document["daily"], document["action"], document["own"]) == (60, 500, "notify", False)
    world("site", "phase", "tokyo-1", "operation")
    shown = world("mail", "limits", "show").out
    assert "No mail limit was set" in shown and "60 recipients an hour, 500 a day" in shown
    world("mail", "limits", "set", *TOKYO, "--action", "hold")
    document = limit_of(world, *TOKYO)
    assert (document["hourly"], document["daily"], document["action"], document["own"]) == (60, 500, "hold", True)
    said = world("mail", "limits", "set", *TOKYO, "--hourly", "900", "--daily", "none").out
    assert "in an hour 900, in a day no limit. Beyond: hold" in said
    world("mail", "limits", "set", *TOKYO, "--daily", "1000")
    assert {name: limit_of(world, *TOKYO)[name] for name in ("hourly", "daily", "action")} == {
        "hourly": 900,
        "daily": 1000,
        "action": "hold",
    }
    assert "tokyo-1" in world("mail", "limits", "show").out
    world("mail", "limits", "remove", *TOKYO)
    assert limit_of(world, *TOKYO)["own"] is False


def test_a_first_limit_by_the_hour_takes_the_day_along(world: Kyoten) -> None:
    document = world("mail", "limits", "set", *TOKYO, "--hourly", "800", "--json").document
    assert (document["hourly"], document["daily"]) == (800, 800)
    document = world("mail", "limits", "set", "--device", "10.0.0.5", "--hourly", "5", "--json").document
    assert (document["hourly"], document["daily"], document["tenant"]) == (5, None, "acme")


def test_a_raise_is_for_a_time(world: Kyoten) -> None:
    before = datetime.now(UTC)
    document = world("mail", "limits", "raise", *TOKYO, "--json").document
    assert (document["hourly"], document["hourly_now"], document["daily_now"]) == (60, 120, 1000)
    until = datetime.fromisoformat(document["raised_until"])
    assert before + timedelta(hours=24) <= until <= datetime.now(UTC) + timedelta(hours=24)
    said = world("mail", "limits", "raise", *TOKYO, "--times", "5", "--for", "2h").out
    assert "in an hour 300, in a day 2500" in said
    assert limit_of(world, *TOKYO)["raised"] == 5
    world("mail", "limits", "set", *TOKYO, "--hourly", "70")
    assert limit_of(world, *TOKYO)["hourly_now"] == 70


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("set", "--hourly", "5"), "cli.mail-limit-whose"),
        (("set", *TOKYO, "--tenant", "acme", "--hourly", "5"), "cli.mail-limit-whose"),
        (("raise",), "cli.mail-limit-whose"),
        (("remove",), "cli.mail-limit-whose"),
        (("set", *TOKYO), "cli.mail-limit-nothing"),
        (("set", *TOKYO, "--hourly", "many"), "cli.bad-mail-count"),
        (("set", *TOKYO, "--hourly", "-3"), "cli.bad-mail-count"),
        (("set", *TOKYO, "--hourly", "0"), "registry.bad-mail-count"),
        (("set", *TOKYO, "--hourly", "9999999999"), "registry.several"),
        (("set", *TOKYO, "--hourly", "50", "--daily", "20"), "registry.mail-limit-order"),
        (("set", *TOKYO, "--action", "shout"), "registry.bad-mail-action"),
        (("set", "--site", "tokio-1", "--hourly", "5"), "registry.unknown-site"),
        (("show", "--device", "nobody"), "registry.unknown-smtp-user"),
        (("raise", *TOKYO, "--times", "1"), "registry.bad-mail-raise"),
        (("raise", *TOKYO, "--for", "8d"), "registry.bad-mail-raise-end"),
        (("raise", *TOKYO, "--for", "soon"), "cli.bad-duration"),
        (("raise", "--tenant", "acme"), "registry.no-mail-limit"),
        (("remove", *TOKYO), "registry.no-mail-limit"),
    ],
)
def test_a_limit_that_is_wrong_is_said(world: Kyoten, words: tuple[str, ...], key: str) -> None:
    assert world("mail", "limits", *words, "--json", status=2).error["key"] == key
    assert world("mail", "limits", "show", "--json").document["mail-limits"] == []


def test_tenants_state_limits_of_their_own_sites(world: Kyoten) -> None:
    world("mail", "limits", "set", "--tenant", "acme", "--daily", "9000")
    world(*ACME, "mail", "limits", "set", *TOKYO, "--hourly", "7")
    assert len(world(*ACME, "mail", "limits", "show", "--json").document["mail-limits"]) == 2
    assert world(*BIRCH, "mail", "limits", "show", "--json").document["mail-limits"] == []
    for words in (("set", "--hourly", "1"), ("raise",), ("show",)):
        error = world(*BIRCH, "mail", "limits", words[0], *TOKYO, *words[1:], "--json", status=2).error
        assert error["key"] == "registry.unknown-site"
    assert world(*BIRCH, "mail", "limits", "remove", *TOKYO, status=2)
    whole = ("mail", "limits", "set", "--tenant", "acme", "--daily", "none", "--json")
    assert world(*ACME, *whole, status=3).error["key"] == "registry.mail-limit-operators"


def test_a_profile_is_shown_and_changed(world: Kyoten) -> None:
    assert world("mail", "profile", "tokyo-1", "--json").document == {
        "site": "tokyo-1", "notify": None, "old_tls": False, "silent_after_s": None, "senders": [], "recipients": [],
    }  # fmt: skip
    said = world(
        "mail", "profile", "tokyo-1", "--notify", "ops@acme.test", "--old-tls", "--silent-after", "26h",
        "--sender", "@acme.test", "--sender", "plc@other.test",
    ).out  # fmt: skip
    assert "ops@acme.test" in said and "--no-old-tls" in said
    assert world("mail", "profile", "tokyo-1", "--json").document == {
        "site": "tokyo-1", "notify": "ops@acme.test", "old_tls": True, "silent_after_s": 26 * 3600,
        "senders": ["@acme.test", "plc@other.test"], "recipients": [],
    }  # fmt: skip
    words = ("--notify", "none", "--no-old-tls", "--silent-after", "auto", "--any-sender")
    document = world(*ACME, "mail", "profile", "tokyo-1", *words, "--json").document
    assert (document["notify"], document["old_tls"], document["silent_after_s"]) == (None, False, None)
    assert document["senders"] == []


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("tokio-1",), "registry.unknown-site"),
        (("tokyo-1", "--notify", "ops"), "registry.bad-mail-address"),
        (("tokyo-1", "--silent-after", "1m"), "registry.bad-mail-silence"),
        (("tokyo-1", "--silent-after", "often"), "cli.bad-duration"),
        (("tokyo-1", "--sender", "acme.test"), "registry.bad-mail-pattern"),
        (("tokyo-1", "--sender", "@acme.test", "--any-sender"), "cli.list-or-any"),
        (("tokyo-1", "--recipient", "a@x", "--any-recipient"), "cli.list-or-any"),
    ],
)
def test_a_profile_that_is_wrong_is_said(world: Kyoten, words: tuple[str, ...], key: str) -> None:
    assert world("mail", "profile", *words, "--json", status=2).error["key"] == key
    assert world(*BIRCH, "mail", "profile", "tokyo-1", "--json", status=2).error["key"] == "registry.unknown-site"


def test_addresses_are_suppressed_and_sent_to_again(world: Kyoten) -> None:
    said = world("mail", "suppressions", "add", "Bob@X.test", "--tenant", "acme", "--reason", "left").out
    assert "acme" in said and "bob@x.test" in said
    world("mail", "suppressions", "add", "bob@x.test", "--servers", "--reason", "left", "--for", "30d")
    rows = world("mail", "suppressions", "list", "--json").document["suppressions"]
    assert [(row["tenant"], row["address"], row["cause"], row["author"]) for row in rows] == [
        (None, "bob@x.test", "manual", "alice"),
        ("acme", "bob@x.test", "manual", "alice"),
    ]
    assert rows[1]["expires"] is None and rows[0]["expires"] is not None
    assert len(world("mail", "suppressions", "list", "--servers", "--json").document["suppressions"]) == 1
    # It lasts already: nothing is shortened by adding it again.
    again = ("mail", "suppressions", "add", "bob@x.test", "--tenant", "acme", "--reason", "x", "--for", "1d")
    assert "not sent anyway" in world(*again).out
    assert world(*ACME, "mail", "suppressions", "remove", "BOB@x.test", "--json").document["removed"] is True
    assert "left" in world("mail", "suppressions", "list").out
    world("mail", "suppressions", "remove", "bob@x.test", "--servers")
    assert "No address" in world("mail", "suppressions", "list").out


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("add", "bob@x.test", "--reason", "r"), "cli.suppression-whose"),
        (("add", "bob@x.test", "--reason", "r", "--servers", "--tenant", "acme"), "cli.suppression-whose"),
        (("add", "bob", "--reason", "r", "--tenant", "acme"), "registry.bad-mail-address"),
        (("add", "bob@x.test", "--reason", "r", "--tenant", "acmee"), "registry.unknown-tenant"),
        (("add", "bob@x.test", "--reason", "r", "--tenant", "acme", "--for", "ever"), "cli.bad-duration"),
        (("remove", "bob@x.test", "--tenant", "acme"), "registry.not-suppressed"),
        (("remove", "bob@x.test"), "cli.suppression-whose"),
        (("list", "--tenant", "acmee"), "registry.unknown-tenant"),
    ],
)
def test_a_suppression_that_is_wrong_is_said(world: Kyoten, words: tuple[str, ...], key: str) -> None:
    assert world("mail", "suppressions", *words, "--json", status=2).error["key"] == key
    assert world("mail", "suppressions", "list", "--json").document["suppressions"] == []


def test_each_tenant_has_its_own_list(world: Kyoten) -> None:
    world(*ACME, "mail", "suppressions", "add", "bob@x.test", "--reason", "r")
    world("mail", "suppressions", "add", "web@x.test", "--servers", "--reason", "r")
    assert world(*BIRCH, "mail", "suppressions", "list", "--json").document["suppressions"] == []
    assert len(world(*ACME, "mail", "suppressions", "list", "--json").document["suppressions"]) == 1
    error = world(*BIRCH, "mail", "suppressions", "remove", "bob@x.test", "--json", status=2).error
    assert error["key"] == "registry.not-suppressed"
    error = world(*BIRCH, "mail", "suppressions", "remove", "bob@x.test", "--tenant", "acme", "--json", status=2).error
    assert error["key"] == "registry.unknown-tenant"
    for words in (("list",), ("remove", "web@x.test")):
        assert world(*BIRCH, "mail", "suppressions", *words, "--servers", "--json", status=3).error["key"] == (
            "registry.operators-only"
        )
