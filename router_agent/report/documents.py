"""The heartbeat and its answer: the agent's side of docs/schema/agent-protocol.json, version 1. Pure.

A cloud may be years newer or older: unknown keys are ignored, a known key with a wrong value is an error.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from router_agent.console.report import KEY_MAX_CHARS, ConsoleReport
from router_agent.errors import CloudRefusedError
from router_agent.lan.devices import LanDevice
from router_agent.link.uplinks import Uplink, UplinkReport
from router_agent.problems import Problem
from router_agent.report.firmware import FirmwareOffer, FirmwareReport, ModuleReport, parse_offer, problem_document
from router_agent.report.requests import FEATURES, Command, LogPull, parse_commands, parse_pulls

PROTOCOL = 1

#: Largest answer that is read. A real one is below 2 kB.
ANSWER_MAX_BYTES = 100_000

#: The schema's limit for texts.
TEXT_MAX_CHARS = 200

HEARTBEAT_LIMITS_S = (1.0, 3600.0)
LOG_LINES_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the router is."""

    load_1m: float
    memory_available_mib: float
    uptime_s: float
    agent_rss_mib: float


@dataclass(frozen=True, slots=True)
class TunnelReport:
    """The tunnel; ``since_s``: seconds in this state."""

    up: bool
    gateway: str
    since_s: float
    suite: str


@dataclass(frozen=True, slots=True)
class SettingsReport:
    """``version`` is confirmed and in force; ``reverted_version`` was tried or refused, because of ``problem``."""

    version: int
    reverted_version: int | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class ModemReport:
    """The mobile line's modem and the month's data; the schema's ``Modem``."""

    state: str
    signal_dbm: int | None = None
    technology: str = ""
    operator: str = ""
    roaming: bool | None = None
    imei: str = ""
    registration: str = ""
    data_used_bytes: int | None = None
    data_budget_bytes: int = 0

    def document(self) -> dict[str, object]:
        """The JSON object."""
        return {
            "state": self.state,
            "signal_dbm": self.signal_dbm,
            "technology": _short(self.technology),
            "operator": _short(self.operator),
            "roaming": self.roaming,
            "imei": _short(self.imei),
            "registration": self.registration,
            "data_used_bytes": self.data_used_bytes,
            "data_budget_bytes": self.data_budget_bytes,
        }


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a router says of itself."""

    site: str
    sent_at: datetime
    uplink: Uplink
    tunnel: TunnelReport
    load: Load
    versions: Mapping[str, str]
    settings: SettingsReport
    problems: tuple[Problem, ...]
    modem: ModemReport | None = None
    lan_devices: tuple[LanDevice, ...] = ()
    uplinks: tuple[UplinkReport, ...] = ()
    firmware: FirmwareReport | None = None
    modules: tuple[ModuleReport, ...] = ()
    console: ConsoleReport | None = None

    def document(self) -> dict[str, object]:
        """The JSON object."""
        settings = self.settings
        return {
            "protocol": PROTOCOL,
            "site": self.site,
            "sent_at": self.sent_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "uplink": {
                "kind": self.uplink.kind.value,
                "interface": self.uplink.interface,
                "address": "" if self.uplink.address is None else str(self.uplink.address),
            },
            "tunnel": {
                "up": self.tunnel.up,
                "gateway": _short(self.tunnel.gateway),
                "since_s": round(self.tunnel.since_s, 1),
                "suite": _short(self.tunnel.suite),
            },
            "load": {
                "load_1m": self.load.load_1m,
                "memory_available_mib": round(self.load.memory_available_mib, 1),
                "uptime_s": round(self.load.uptime_s),
                "agent_rss_mib": round(self.load.agent_rss_mib, 1),
            },
            "versions": {name: _short(version) for name, version in self.versions.items()},
            "settings": {
                "version": settings.version,
                "reverted_version": settings.reverted_version,
                "problem": None if settings.problem is None else problem_document(settings.problem),
            },
            "problems": [problem_document(problem) for problem in self.problems],
            "modem": None if self.modem is None else self.modem.document(),
            "uplinks": [_uplink(line) for line in self.uplinks],
            "lan_devices": [_lan_device(device) for device in self.lan_devices],
            "firmware": None if self.firmware is None else self.firmware.document(),
            "modules": [module.document() for module in self.modules],
            "console": None if self.console is None else self.console.document(),
            "features": list(FEATURES),
        }


@dataclass(frozen=True, slots=True)
class DesiredSettings:
    """The settings this router shall have; not yet held against the keys it knows."""

    version: int
    values: Mapping[str, object]
    confirm_s: float


@dataclass(frozen=True, slots=True)
class LogRequest:
    """Hand over the last ``lines`` lines of the logs."""

    id: str
    lines: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the cloud wants of this router."""

    heartbeat_s: float
    settings: DesiredSettings | None
    log_requests: tuple[LogRequest, ...]
    timezone: str = "UTC"
    renew_certificate: bool = False
    firmware: FirmwareOffer | None = None
    #: The snapshot of the firmware repository: a new one is a reason to look at it. None: the cloud did not say.
    repository: int | None = None
    log_pulls: tuple[LogPull, ...] = ()
    commands: tuple[Command, ...] = ()
    #: The service's console key, PEM, where this router has named another one or none.
    console_key: str | None = None


def parse_answer(body: bytes) -> Answer:
    """The answer to a heartbeat. Raises CloudRefusedError: it is not an answer of this protocol."""
    try:
        document = json.loads(body)
        fields = _object(document)
        if fields.get("protocol", PROTOCOL) != PROTOCOL:
            raise ValueError("protocol")
        requests = fields.get("log_requests", [])
        if not isinstance(requests, list):
            raise TypeError("log_requests")
        low, high = HEARTBEAT_LIMITS_S
        wanted = fields.get("settings")
        return Answer(
            heartbeat_s=min(max(_number(fields["heartbeat_s"]), low), high),
            settings=None if wanted is None else _desired(_object(wanted)),
            log_requests=tuple(_log_request(_object(request)) for request in requests),
            timezone=_text(fields.get("timezone", "UTC")),
            renew_certificate=fields.get("renew_certificate") is True,
            firmware=None if fields.get("firmware") is None else parse_offer(_object(fields["firmware"])),
            repository=None if fields.get("repository") is None else _whole(fields["repository"]),
            log_pulls=parse_pulls(fields.get("log_pulls", [])),
            commands=parse_commands(fields.get("commands", [])),
            console_key=None if fields.get("console_key") is None else _key(fields["console_key"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CloudRefusedError("agent.cloud-answer-unknown", reason=str(error)[:TEXT_MAX_CHARS]) from error


def parse_files(body: bytes) -> Mapping[str, bytes]:
    """The files in an answer that brings certificates. Raises CloudRefusedError: it is not one of this protocol."""
    try:
        document = _object(json.loads(body))
        if document.get("format", PROTOCOL) != PROTOCOL:
            raise ValueError("format")
        files = _object(document["files"])
        if not all(isinstance(content, str) for content in files.values()):
            raise TypeError("files")
        return {str(name): str(content).encode() for name, content in files.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CloudRefusedError("agent.cloud-answer-unknown", reason=str(error)[:TEXT_MAX_CHARS]) from error


def _desired(fields: Mapping[str, object]) -> DesiredSettings:
    return DesiredSettings(_whole(fields["version"]), dict(_object(fields["values"])), _number(fields["confirm_s"]))


def _log_request(fields: Mapping[str, object]) -> LogRequest:
    identifier = fields["id"]
    # The id becomes a part of a path.
    if not isinstance(identifier, str) or not 0 < len(identifier) <= TEXT_MAX_CHARS or not _plain(identifier):
        raise ValueError("log_requests.id")
    return LogRequest(identifier, min(max(_whole(fields["lines"]), 1), LOG_LINES_MAX))


def _plain(text: str) -> bool:
    return text.isascii() and all(character.isalnum() or character in "-_" for character in text)


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise TypeError("not a number")
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("not a whole number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX_CHARS:
        raise TypeError("not a short text")
    return value


def _key(value: object) -> str:
    if not isinstance(value, str) or len(value) > KEY_MAX_CHARS or not value.isascii():
        raise TypeError("console_key")
    return value


def _lan_device(device: LanDevice) -> dict[str, object]:
    return {
        "mac": device.mac,
        "address": str(device.address),
        "name": _short(device.name),
        "source": device.source.value,
        "seen_s": None if device.seen_s is None else round(device.seen_s, 1),
    }


def _uplink(line: UplinkReport) -> dict[str, object]:
    return {
        "kind": line.kind.value,
        "interface": line.interface,
        "address": "" if line.address is None else str(line.address),
        "carrier": line.carrier,
        "healthy": line.healthy,
        "since_s": round(line.since_s, 1),
        "rtt_ms": None if line.rtt_ms is None else round(line.rtt_ms, 1),
        "in_use": line.in_use,
        "probes_sent": line.probes_sent,
        "probes_lost": line.probes_lost,
    }


def _short(text: str) -> str:
    return text[:TEXT_MAX_CHARS]
