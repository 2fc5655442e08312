"""The settings a router knows: names, types, limits. One table for CLI, API and documentation."""

from collections.abc import Callable
from dataclasses import dataclass

SettingValue = str | int | float | bool | list[str]


@dataclass(frozen=True, slots=True)
class SettingKey:
    """One setting. ``parse`` turns the text a person typed into a value or raises ValueError saying what is wanted."""

    name: str
    meaning: str
    parse: Callable[[str], SettingValue]


def _seconds(low: float, high: float) -> Callable[[str], SettingValue]:
    def parse(text: str) -> SettingValue:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"seconds from {low:g} to {high:g}") from None
        if not low <= value <= high:
            raise ValueError(f"seconds from {low:g} to {high:g}")
        return value

    return parse


def _choice(*words: str) -> Callable[[str], SettingValue]:
    def parse(text: str) -> SettingValue:
        if text not in words:
            raise ValueError(" or ".join(words))
        return text

    return parse


def _addresses(text: str) -> SettingValue:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items or any(" " in item or len(item) > 253 for item in items):
        raise ValueError("host names or addresses separated by commas")
    return items


SETTING_KEYS = {
    key.name: key
    for key in (
        SettingKey("tunnel.gateways", "VPN servers to connect to, in the order to try", _addresses),
        SettingKey("tunnel.dpd_s", "seconds of silence before the VPN server is asked for life", _seconds(2, 300)),
        SettingKey("heartbeat.interval_s", "seconds between heartbeats; overrides the cloud's", _seconds(1, 3600)),
        SettingKey("uplink.prefer", "the line to use when both are there", _choice("wired", "mobile")),
        SettingKey("log.level", "how much the agent logs", _choice("debug", "info", "warning")),
    )
}
