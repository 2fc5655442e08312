"""Settings: limits, the trial's stages, the journal, and that a version which failed is never tried again."""

import json
from pathlib import Path

import pytest

from cloudside.fleet.settings_keys import SETTING_KEYS
from router_agent.errors import StateError
from router_agent.link.uplinks import UplinkKind
from router_agent.problems import Problem
from router_agent.settings import machine
from router_agent.settings.journal import Journal
from router_agent.settings.keys import Settings, SettingsError, parse
from router_agent.settings.machine import SettingsState, Stage, Version
from router_agent.settings.trial import SettingsTrial
from router_agent.update import settings as update_settings
from router_agent.update.settings import UpdateSettings

GOOD = {"tunnel.gateways": ["vpn.example", "203.0.113.2"], "tunnel.dpd_s": 2, "log.level": "debug"}


class Device:
    """A router that settings are applied to; its journal can fail."""

    def __init__(self, directory: Path) -> None:
        self.applied: list[Settings] = []
        self.journal = Journal(directory)
        self.trial = SettingsTrial(self.journal, lambda settings, _now: self.applied.append(settings))


def test_values_in_their_limits_are_taken() -> None:
    assert parse(GOOD) == Settings(gateways=("vpn.example", "203.0.113.2"), dpd_s=2.0, log_level="debug")
    assert parse({"uplink.prefer": "mobile", "heartbeat.interval_s": 3600}).prefer is UplinkKind.MOBILE
    assert parse({}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tunnel.gateways", []),
        ("tunnel.gateways", "203.0.113.2"),
        ("tunnel.gateways", ["203.0.113.2, 203.0.113.3"]),
        ("tunnel.gateways", ["0.0.0.0/0"]),
        ("tunnel.gateways", ["%any"]),
        ("tunnel.gateways", [1]),
        ("tunnel.dpd_s", 1.9),
        ("tunnel.dpd_s", True),
        ("tunnel.dpd_s", float("nan")),
        ("heartbeat.interval_s", 3601),
        ("uplink.prefer", "none"),
        ("log.level", ["debug"]),
        ("unheard.of", 1),
        ("mobile.apn", "a b"),
        ("mobile.apn", '","'),
        ("mobile.pin", "123"),
        ("mobile.pin", "1234\n"),
        ("mobile.pin", 1234),
        ("mobile.user", "a\nb"),
        ("mobile.roaming", "yes"),
        ("mobile.budget_mib", -1),
        ("mobile.budget_mib", True),
        ("mobile.budget_action", "explode"),
        ("mobile.unheard-of", 1),
    ],
)
def test_what_is_unknown_or_wrong_is_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        parse({**GOOD, name: value, "also.unknown": 1})
    assert caught.value.names == tuple(sorted([name, "also.unknown"]))


def test_the_router_takes_everything_that_the_cloud_lets_a_person_type() -> None:
    typed = {
        "lan.dhcp": "yes",
        "lan.dhcp_range": "192.168.1.100-192.168.1.199",
        "lan.reservations": "02:4b:59:00:00:30=192.168.1.30=plc",
        "lan.devices": "meter=192.168.1.77",
        "lan.essential": "192.168.1.30, 192.168.1.77",
        "update.health_s": "600",
        "update.reach_s": "300",
        "update.window": "22:00-05:00",
        "tunnel.gateways": "vpn1.example, 203.0.113.2",
        "tunnel.dpd_s": "300",
        "heartbeat.interval_s": "1",
        "uplink.prefer": "wired",
        "log.level": "warning",
        "mobile.apn": "soracom.io",
        "mobile.pin": "01234567",
        "mobile.user": "sora",
        "mobile.password": 'so"ra',
        "mobile.roaming": "yes",
        "mobile.budget_mib": "16777216",
        "mobile.budget_action": "tunnel-only",
    }
    assert set(typed) == set(SETTING_KEYS)
    parse({name: SETTING_KEYS[name].parse(text) for name, text in typed.items()})


def test_secret_settings_are_in_no_repr() -> None:
    assert "4711" not in repr(parse({"mobile.pin": "4711", "mobile.password": "4711"}))


def test_a_trial_is_journalled_before_anything_is_changed(tmp_path: Path) -> None:
    seen: list[Stage] = []
    trial = SettingsTrial(Journal(tmp_path), lambda *_: seen.append(Journal(tmp_path).load().stage))
    trial.start(0)
    seen.clear()
    trial.offer(Version(1, GOOD), 10, now=1)
    assert seen == [Stage.TRYING]


def test_confirmed_after_a_fresh_probe_and_a_heartbeat_through_the_tunnel(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.trial.start(0)
    device.trial.offer(Version(1, GOOD), 30, now=10)
    device.trial.step(11, probed_at=9, heartbeat_began_at=9)
    device.trial.step(12, probed_at=11.5, heartbeat_began_at=9)
    device.trial.step(12, probed_at=9, heartbeat_began_at=11)
    assert device.trial.trying, "old news confirmed new settings"
    device.trial.step(13, probed_at=11.5, heartbeat_began_at=12)
    assert (device.trial.state.current.number, device.trial.trying) == (1, False)
    assert device.journal.load() == device.trial.state
    assert device.applied[-1].dpd_s == 2.0


def test_undone_when_time_is_up_and_never_tried_again(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.trial.start(0)
    device.trial.offer(Version(1, GOOD), 10, now=0)
    device.trial.step(10.1, probed_at=None, heartbeat_began_at=None)
    state = device.trial.state
    assert state.reverted is not None
    assert state.problem == Problem("agent.settings-cut-off", {"version": 1, "confirm_s": 10})
    assert device.applied[-1] == Settings()
    count = len(device.applied)
    device.trial.offer(Version(1, GOOD), 10, now=11)
    again = Device(tmp_path)
    again.trial.start(100)
    again.trial.offer(Version(1, GOOD), 10, now=101)
    assert len(device.applied) == count
    assert again.applied == [Settings()]
    again.trial.offer(Version(2, GOOD), 10, now=102)
    assert again.trial.trying


def test_a_restart_in_the_middle_goes_back(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.trial.start(0)
    device.trial.offer(Version(7, GOOD), 10, now=1)
    after = Device(tmp_path)
    after.trial.start(0)
    assert after.applied == [Settings()]
    assert after.trial.state.problem == Problem("agent.settings-interrupted", {"version": 7})
    assert after.trial.state.reverted == Version(7, GOOD)


def test_refused_settings_change_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.trial.start(0)
    device.trial.offer(Version(1, {"brew.coffee": 1}), 10, now=1)
    assert device.applied == [Settings()]
    assert device.trial.state.problem == Problem("agent.settings-refused", {"version": 1, "names": "brew.coffee"})


def test_without_a_journal_there_is_no_trial(tmp_path: Path) -> None:
    device = Device(tmp_path / "missing")
    device.trial.start(0)
    device.trial.offer(Version(1, GOOD), 10, now=1)
    assert device.applied == [Settings()]
    assert [problem.key for problem in device.trial.problems()] == ["agent.state-unwritable"]
    (tmp_path / "missing").mkdir()
    device.trial.offer(Version(1, GOOD), 10, now=2)
    assert device.trial.trying
    assert device.trial.problems() == ()


def test_a_revert_that_cannot_be_written_happens_and_is_written_later(tmp_path: Path) -> None:
    place = tmp_path / "state"
    place.mkdir()
    device = Device(place)
    device.trial.start(0)
    device.trial.offer(Version(1, GOOD), 10, now=0)
    place.rename(tmp_path / "gone")
    device.trial.step(11, probed_at=None, heartbeat_began_at=None)
    assert device.applied[-1] == Settings()
    assert device.trial.problems()
    (tmp_path / "gone").rename(place)
    device.trial.step(40, probed_at=None, heartbeat_began_at=None)
    assert device.trial.problems() == ()
    assert device.journal.load().stage is Stage.REVERTED


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 2}', "\xff", json.dumps({"format": 1, "current": 3})]
)
def test_a_damaged_journal_is_our_error_and_the_router_starts_all_the_same(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StateError):
        Journal(tmp_path).load()
    device = Device(tmp_path)
    device.trial.start(0)
    assert device.applied == [Settings()]


def test_a_transition_that_is_not_in_the_table_is_a_bug() -> None:
    with pytest.raises(KeyError):
        machine.begin(SettingsState())
    with pytest.raises(KeyError):
        machine.confirm(SettingsState(candidate=Version(1), stage=Stage.REVERTED))


def test_a_time_of_health_that_is_not_taken_any_more_costs_a_site_no_settings() -> None:
    """It was told so before."""
    assert update_settings.changed(UpdateSettings(), "update.health_s", 10).health_s == 30
    with pytest.raises(ValueError):
        update_settings.changed(UpdateSettings(), "update.health_s", 4)
