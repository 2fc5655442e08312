"""The settings a router knows, and their limits. Pure. The cloud has the same table for its own checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from router_agent.lan import settings as lan_settings
from router_agent.lan.settings import LanSettings
from router_agent.link.uplinks import UplinkKind
from router_agent.modem import settings as modem_settings
from router_agent.modem.settings import MobileSettings
from router_agent.tunnel.connection import DEFAULT_DPD_S
from router_agent.update import settings as update_settings
from router_agent.update.settings import UpdateSettings

Value = str | int | float | bool | list[str]

DPD_LIMITS_S = (2.0, 300.0)
HEARTBEAT_LIMITS_S = (1.0, 3600.0)
GATEWAYS_MAX = 16
NAME_MAX_CHARS = 253


@dataclass(frozen=True, slots=True)
class Settings:
    """What is in force. ``gateways`` and ``heartbeat_s`` None: what the bundle and the cloud say."""

    gateways: tuple[str, ...] | None = None
    dpd_s: float = DEFAULT_DPD_S
    heartbeat_s: float | None = None
    prefer: UplinkKind = UplinkKind.WIRED
    log_level: str = "info"
    mobile: MobileSettings = field(default_factory=MobileSettings)
    lan: LanSettings = field(default_factory=LanSettings)
    update: UpdateSettings = field(default_factory=UpdateSettings)


class SettingsError(ValueError):
    """Keys that are not known or values out of their limits; ``names`` has all of them."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = tuple(names)


def parse(values: Mapping[str, object]) -> Settings:
    """Values as the cloud sends them. Raises SettingsError naming every key that is unknown or wrong."""
    wrong: list[str] = []
    chosen = Settings()
    gateways, dpd_s, heartbeat_s = chosen.gateways, chosen.dpd_s, chosen.heartbeat_s
    prefer, log_level, mobile, lan = chosen.prefer, chosen.log_level, chosen.mobile, chosen.lan
    update = chosen.update
    for name, value in values.items():
        try:
            match name:
                case "tunnel.gateways":
                    gateways = _gateways(value)
                case "tunnel.dpd_s":
                    dpd_s = _seconds(value, *DPD_LIMITS_S)
                case "heartbeat.interval_s":
                    heartbeat_s = _seconds(value, *HEARTBEAT_LIMITS_S)
                case "uplink.prefer":
                    prefer = UplinkKind(_choice(value, "wired", "mobile"))
                case "log.level":
                    log_level = _choice(value, "debug", "info", "warning")
                case _ if name.startswith(modem_settings.PREFIX):
                    mobile = modem_settings.changed(mobile, name, value)
                case _ if name.startswith(lan_settings.PREFIX):
                    lan = lan_settings.changed(lan, name, value)
                case _ if name.startswith(update_settings.PREFIX):
                    update = update_settings.changed(update, name, value)
                case _:
                    raise ValueError
        except ValueError:
            wrong.append(name[:NAME_MAX_CHARS])
    if wrong:
        raise SettingsError(sorted(wrong))
    return Settings(gateways, dpd_s, heartbeat_s, prefer, log_level, mobile, lan, update)


def _gateways(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= GATEWAYS_MAX:
        raise ValueError
    for item in value:
        # charon takes lists and ranges in remote_addrs; one gateway is one name.
        if not isinstance(item, str) or not 0 < len(item) <= NAME_MAX_CHARS or set(item) & set(" ,/%"):
            raise ValueError
    return tuple(value)


def _seconds(value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError
    return float(value)


def _choice(value: object, *words: str) -> str:
    if not isinstance(value, str) or value not in words:
        raise ValueError
    return value
