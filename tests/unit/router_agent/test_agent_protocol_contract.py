"""Both sides' documents held against each other: what the agent writes the cloud reads, and back."""

import dataclasses
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from cloudside.fleet import protocol
from router_agent.errors import CloudRefusedError
from router_agent.lan.devices import LanDevice, Source
from router_agent.link.uplinks import NO_UPLINK, Uplink, UplinkKind, UplinkReport
from router_agent.problems import Problem
from router_agent.report.documents import (
    PROTOCOL,
    DesiredSettings,
    Heartbeat,
    Load,
    LogRequest,
    ModemReport,
    SettingsReport,
    TunnelReport,
    parse_answer,
)
from router_agent.report.firmware import FirmwareOffer, FirmwareReport, ModuleReport
from router_agent.report.requests import CommandReport, CrashReport, parse_piece_answer

AT = datetime(2026, 11, 21, 20, 55, 48, 123456, UTC)
LOAD = Load(load_1m=0.5, memory_available_mib=100.25, uptime_s=3600.7, agent_rss_mib=38.61)


def heartbeat(**parts: object) -> Heartbeat:
    values: dict[str, object] = {
        "site": "tokyo-1",
        "sent_at": AT,
        "uplink": Uplink(UplinkKind.MOBILE, "wwan0", ip_address("100.64.0.5")),
        "tunnel": TunnelReport(True, "203.0.113.2", 12.34, "AES_GCM_16-256"),
        "load": LOAD,
        "versions": {"agent": "0.1.0"},
        "settings": SettingsReport(3, 4, Problem("agent.settings-cut-off", {"version": 4, "confirm_s": 10})),
        "problems": (Problem("agent.tunnel-silent", {"gateway": "203.0.113.2"}),),
        "modem": ModemReport("connected", -67, "LTE", "44010", False, "490154203237518", "home", 1 << 30, 1 << 31),
        "uplinks": (
            UplinkReport(UplinkKind.WIRED, "wan0", None, False, False, 61.26, None, False, 100, 3),
            UplinkReport(UplinkKind.MOBILE, "wwan0", ip_address("100.64.0.5"), True, True, 9, 61.5, True, 7, 0),
        ),
        "lan_devices": (
            LanDevice("02:00:00:00:00:20", ip_address("192.168.1.20"), "plc", Source.RESERVATION, 1.5),
            LanDevice("", ip_address("192.168.1.21"), "", Source.STATIC),
        ),
        "firmware": FirmwareReport(
            "kyoten-x86-64",
            "1.4.0",
            14,
            "A",
            "fetching",
            "releases/kyoten-x86-64/1.5.0.json",
            "r-7",
            41.5,
            1 << 20,
            12.5,
            Problem("agent.update-window", {"window": "22:00-05:00"}),
        ),
        "modules": (ModuleReport("ca-web", "2026.11", "active"), ModuleReport("modems", "7", "refused", Problem("x"))),
        **parts,
    }
    return Heartbeat(**values)  # type: ignore[arg-type]


def test_the_cloud_reads_every_field_of_a_heartbeat() -> None:
    document = heartbeat().document()
    read = protocol.Heartbeat.model_validate(document)
    assert read.model_dump(mode="json") == document, "a field was lost or renamed on the way"
    assert set(document) == set(protocol.Heartbeat.model_fields)


def test_the_cloud_reads_a_heartbeat_with_nothing_in_it() -> None:
    empty = heartbeat(
        uplink=NO_UPLINK, tunnel=TunnelReport(False, "", 0, ""), settings=SettingsReport(0), problems=(), modem=None
    )
    assert protocol.Heartbeat.model_validate(empty.document()).uplink.kind == "none"


def test_long_texts_are_cut_to_what_the_cloud_takes() -> None:
    long = heartbeat(problems=(Problem("agent.x", {"reason": "x" * 5000}),), versions={"agent": "v" * 300})
    protocol.Heartbeat.model_validate(long.document())


def test_the_agent_reads_every_field_of_an_answer() -> None:
    answer = protocol.HeartbeatAnswer(
        heartbeat_s=30,
        settings=protocol.DesiredSettings(
            version=2, values={"tunnel.dpd_s": 15, "tunnel.gateways": ["a"]}, confirm_s=60
        ),
        log_requests=[protocol.LogRequest(id="0c1f-22", lines=200)],
        timezone="Asia/Tokyo",
        firmware=protocol.FirmwareOffer(
            release="releases/kyoten-x86-64/1.5.0.json",
            counter=15,
            rollout="r-7",
            consent=True,
            rate_bytes_s=40_000,
            budget_bytes=1 << 24,
            permit="{}",
            window="22:00-05:00",
            visit_open=True,
        ),
        repository=31,
    )
    read = parse_answer(answer.model_dump_json().encode())
    assert read.heartbeat_s == 30
    assert read.settings == DesiredSettings(2, {"tunnel.dpd_s": 15, "tunnel.gateways": ["a"]}, 60)
    assert read.log_requests == (LogRequest("0c1f-22", 200),)
    assert read.timezone == "Asia/Tokyo"
    assert read.firmware is not None and answer.firmware is not None
    assert dataclasses.asdict(read.firmware) == answer.firmware.model_dump()
    assert read.repository == 31
    assert PROTOCOL == protocol.PROTOCOL_VERSION


def test_an_offer_says_only_what_it_must() -> None:
    read = parse_answer(b'{"heartbeat_s": 30, "firmware": {"release": "releases/a/1.json", "counter": 2, "x": 1}}')
    assert read.firmware == FirmwareOffer("releases/a/1.json", 2)


def test_the_agent_reads_every_field_of_what_it_is_asked_for() -> None:
    pull = protocol.LogPull(
        id="a" * 32, units=["agent", "kernel"], since="2026-11-22T08:00:00Z", until="2026-11-22T09:00:00Z", lines=5,
        follow=True, received=7, max_bytes=8, mobile_max_bytes=9, mobile_rate_bytes_s=10,
    )  # fmt: skip
    command = protocol.Command(
        id="b" * 32, name="ping", arguments={"address": "192.0.2.1", "count": 2}, timeout_s=30, expires_s=600.5
    )
    read = parse_answer(
        protocol.HeartbeatAnswer(heartbeat_s=5, log_pulls=[pull], commands=[command]).model_dump_json().encode()
    )
    expected = {**pull.model_dump(), "units": ("agent", "kernel")}
    expected |= {name: datetime.fromisoformat(str(expected[name])) for name in ("since", "until")}
    assert [dataclasses.asdict(one) for one in read.log_pulls] == [expected]
    assert [dataclasses.asdict(one) for one in read.commands] == [command.model_dump()]
    assert parse_answer(b'{"heartbeat_s": 30}').log_pulls == ()


def test_the_cloud_reads_every_field_of_results_and_crashes() -> None:
    result = CommandReport("timed-out", None, "so far", True, AT, 1.25, Problem("agent.x", {"a": 1})).document()
    assert protocol.CommandResult.model_validate(result).model_dump(mode="json") == result
    assert set(result) == set(protocol.CommandResult.model_fields)
    crash = CrashReport("ab" * 16, "kernel", "kernel", "Oops", AT, AT, 3, {"agent": "1"}, "text").document()
    assert protocol.CrashReport.model_validate(crash).model_dump(mode="json") == crash
    assert set(crash) == set(protocol.CrashReport.model_fields)
    long = CrashReport("ab" * 16, "child", "p" * 999, "s" * 999, AT, AT, 1, {}, "t" * 99_999).document()
    protocol.CrashReport.model_validate(long)
    protocol.CommandResult.model_validate(CommandReport("done", 0, "x" * 99_999).document())


def test_the_agent_says_what_the_cloud_looks_for() -> None:
    features = protocol.Heartbeat.model_validate(heartbeat().document()).features
    assert features == [protocol.LOG_PULLS, protocol.COMMANDS, protocol.CRASHES]


def test_a_piece_is_answered() -> None:
    answer = protocol.PieceAnswer(received=9, wanted=True)
    assert dataclasses.asdict(parse_piece_answer(answer.model_dump_json().encode())) == answer.model_dump()
    for body in (b"", b"[]", b'{"received": "9", "wanted": true}', b'{"received": -1, "wanted": true}', b"[" * 9999):
        with pytest.raises(CloudRefusedError):
            parse_piece_answer(body)


def test_an_answer_from_a_newer_cloud_is_read() -> None:
    assert parse_answer(b'{"protocol": 1, "heartbeat_s": 30, "tomorrow": {"a": 1}}').settings is None


def test_an_answer_may_ask_for_a_renewal() -> None:
    assert parse_answer(b'{"protocol": 1, "heartbeat_s": 30, "renew_certificate": true}').renew_certificate
    assert not parse_answer(b'{"protocol": 1, "heartbeat_s": 30}').renew_certificate


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff", b'{"protocol": 1}', b'{"protocol": 2, "heartbeat_s": 1}',
        b'{"heartbeat_s": "30"}', b'{"heartbeat_s": true}', b'{"heartbeat_s": NaN}',
        b'{"heartbeat_s": 30, "settings": []}', b'{"heartbeat_s": 30, "settings": {"version": "1"}}',
        b'{"heartbeat_s": 30, "log_requests": {}}', b'{"heartbeat_s": 30, "timezone": 9}',
        b'{"heartbeat_s": 30, "log_requests": [{"id": "../x", "lines": 1}]}',
        b'{"heartbeat_s": 30, "log_requests": [{"id": "", "lines": 1}]}', b"[" * 100_000,
        b'{"heartbeat_s": 30, "log_pulls": {}}', b'{"heartbeat_s": 30, "log_pulls": [{"id": "a"}]}',
        b'{"heartbeat_s": 30, "log_pulls": [{"id": "../x", "max_bytes": 1, "mobile_max_bytes": 1}]}',
        b'{"heartbeat_s": 30, "log_pulls": [{"id": "a", "max_bytes": 1, "mobile_max_bytes": 1, "since": "now"}]}',
        b'{"heartbeat_s": 30, "commands": [{"id": "a/b", "name": "x", "timeout_s": 1, "expires_s": 1}]}',
        b'{"heartbeat_s": 30, "commands": [{"id": "a", "name": "x", "timeout_s": NaN, "expires_s": 1}]}',
        b'{"heartbeat_s": 30, "commands": [{"id": "a", "name": "x", "arguments": {"y": []}, "timeout_s": 1, "expires_s": 1}]}',  # noqa: E501
        b'{"heartbeat_s": 30, "firmware": []}', b'{"heartbeat_s": 30, "repository": "1"}',
        b'{"heartbeat_s": 30, "firmware": {"release": "releases/a/../../x.json", "counter": 1}}',
        b'{"heartbeat_s": 30, "firmware": {"release": "modules/a/1.json", "counter": 1}}',
        b'{"heartbeat_s": 30, "firmware": {"release": "releases/a/1.json", "counter": -1}}',
        b'{"heartbeat_s": 30, "firmware": {"release": "releases/a/1.json", "counter": 1, "budget_bytes": "x"}}',
    ],
)  # fmt: skip
def test_anything_else_is_our_error_and_no_other(body: bytes) -> None:
    with pytest.raises(CloudRefusedError):
        parse_answer(body)


def test_wild_intervals_are_brought_within_limits() -> None:
    assert parse_answer(b'{"heartbeat_s": 0}').heartbeat_s == 1
    assert parse_answer(b'{"heartbeat_s": 1e9}').heartbeat_s == 3600
