"""What a person types becomes settings, or one answer that names all mistakes; waiting ends with what became of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_cloud import NOW, Cloud

from cloudside.errors import InputError, InputErrors, UnavailableError
from cloudside.fleet import settings_change
from cloudside.registry import settings
from cloudside.registry.callers import OPERATOR


def test_assignments_are_read_by_type() -> None:
    read = settings_change.parse(["tunnel.gateways=a.example, b.example", "tunnel.dpd_s=5", "uplink.prefer=mobile"])
    assert read == {"tunnel.gateways": ["a.example", "b.example"], "tunnel.dpd_s": 5.0, "uplink.prefer": "mobile"}


def test_an_empty_value_takes_a_setting_back() -> None:
    assert settings_change.parse(["log.level="]) == {"log.level": None}


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("log.level", "fleet.no-assignment"),
        ("log.levle=debug", "fleet.unknown-setting"),
        ("log.level=loud", "fleet.bad-setting"),
        ("tunnel.dpd_s=-1", "fleet.bad-setting"),
        ("tunnel.dpd_s=nan", "fleet.bad-setting"),
    ],
)
def test_a_mistake_is_named(assignment: str, key: str) -> None:
    with pytest.raises(InputError) as refused:
        settings_change.parse([assignment])
    assert refused.value.key == key


def test_an_unknown_key_names_the_closest() -> None:
    with pytest.raises(InputError) as refused:
        settings_change.parse(["log.levle=debug"])
    assert "log.level" in str(refused.value.params["known"])


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(InputErrors) as refused:
        settings_change.parse(["nonsense", "log.level=loud", "tunnel.dpd_s=5", "tunnel.dpd_s=6"])
    assert [problem.key for problem in refused.value.problems] == [
        "fleet.no-assignment",
        "fleet.bad-setting",
        "fleet.setting-twice",
    ]


def test_a_secret_is_read_from_a_file_and_never_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("0000\n")
    read = settings_change.parse([f"mobile.pin=@{tmp_path / 'pin'}", "mobile.apn=soracom.io", "mobile.roaming=yes"])
    assert read == {"mobile.pin": "0000", "mobile.apn": "soracom.io", "mobile.roaming": True}
    assert settings_change.parse(["mobile.pin=-"], read_secret=lambda _where: "1234") == {"mobile.pin": "1234"}
    assert settings_change.parse(["mobile.pin="]) == {"mobile.pin": None}


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("mobile.pin=4711", "fleet.secret-typed"),
        ("mobile.password=@", "fleet.secret-typed"),
        ("mobile.pin=@/nowhere/pin", "fleet.secret-unreadable"),
        ("mobile.pin=@/etc/hostname", "fleet.bad-secret"),
    ],
)
def test_a_secret_that_is_none_is_refused_without_repeating_it(assignment: str, key: str) -> None:
    with pytest.raises(InputError) as refused:
        settings_change.parse([assignment])
    assert refused.value.key == key
    assert "4711" not in str(refused.value)


def test_secrets_are_shown_to_nobody() -> None:
    shown = settings.shown({"mobile.pin": "4711", "mobile.password": "sora", "mobile.apn": "soracom.io"})
    assert shown == {"mobile.pin": "***", "mobile.password": "***", "mobile.apn": "soracom.io"}


def _change(cloud: Cloud) -> int:
    with cloud.database.write() as session:
        row = settings.change(session, OPERATOR, site_id="tokyo-1", changes={"log.level": "debug"}, author="t", now=NOW)
    return row.version


def _after(looks: int, act: Callable[[], None]) -> Callable[[float], None]:
    left = [looks]

    def sleep(_seconds: float) -> None:
        left[0] -= 1
        if left[0] == 0:
            act()

    return sleep


def test_waiting_ends_when_the_router_has_undone_it(cloud: Cloud) -> None:
    version = _change(cloud)

    def undo() -> None:
        with cloud.database.write() as session:
            settings.mark_reverted(
                session, OPERATOR, site_id="tokyo-1", version=version, problem={"key": "agent.x", "params": {}}
            )

    row = settings_change.wait(
        cloud.database, OPERATOR, site_id="tokyo-1", version=version, timeout_s=10, sleep=_after(3, undo)
    )
    assert (row.state, row.problem) == ("reverted", {"key": "agent.x", "params": {}})


def test_waiting_gives_up_in_the_end(cloud: Cloud) -> None:
    ticks = iter(range(100))
    with pytest.raises(UnavailableError) as late:
        settings_change.wait(
            cloud.database,
            OPERATOR,
            site_id="tokyo-1",
            version=_change(cloud),
            timeout_s=3,
            clock=lambda: float(next(ticks)),
            sleep=lambda _: None,
        )
    assert late.value.key == "fleet.settings-pending"
