"""The settings a router knows: names, types, limits. One table for CLI, API and documentation."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from cloudside.registry.settings import SECRET_KEYS

SettingValue = str | int | float | bool | list[str]


@dataclass(frozen=True, slots=True)
class SettingKey:
    """One setting. ``parse`` turns the text a person typed into a value or raises ValueError saying what is wanted."""

    name: str
    meaning: str
    parse: Callable[[str], SettingValue]

    @property
    def secret(self) -> bool:
        """Never shown, never typed on a command line."""
        return self.name in SECRET_KEYS


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


def _yes_or_no(text: str) -> SettingValue:
    if text not in ("yes", "no"):
        raise ValueError("yes or no")
    return text == "yes"


def _whole(low: int, high: int) -> Callable[[str], SettingValue]:
    def parse(text: str) -> SettingValue:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _matching(form: str, wanted: str) -> Callable[[str], SettingValue]:
    def parse(text: str) -> SettingValue:
        if not re.fullmatch(form, text):
            raise ValueError(wanted)
        return text

    return parse


#: One line of printable ASCII: it goes into a PAP packet.
_line = _matching(r"[ -~]{1,64}", "1 to 64 printable ASCII characters")


def _addresses(text: str) -> SettingValue:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items or any(" " in item or len(item) > 253 for item in items):
        raise ValueError("host names or addresses separated by commas")
    return items


def _items(form: str, wanted: str) -> Callable[[str], SettingValue]:
    def parse(text: str) -> SettingValue:
        items = [item.strip() for item in text.split(",") if item.strip()]
        if len(items) > LAN_ITEMS_MAX or not all(re.fullmatch(form, item) for item in items):
            raise ValueError(wanted)
        return items

    return parse


#: As many devices as a router reports of its LAN.
LAN_ITEMS_MAX = 254
_IPV4 = r"\d{1,3}(\.\d{1,3}){3}"
_NAME = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_MAC = r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}"

SETTING_KEYS = {
    key.name: key
    for key in (
        SettingKey("tunnel.gateways", "VPN servers to connect to, in the order to try", _addresses),
        SettingKey("tunnel.dpd_s", "seconds of silence before the VPN server is asked for life", _seconds(2, 300)),
        SettingKey("heartbeat.interval_s", "seconds between heartbeats; overrides the cloud's", _seconds(1, 3600)),
        SettingKey("uplink.prefer", "the line to use when both are there", _choice("wired", "mobile")),
        SettingKey("log.level", "how much the agent logs", _choice("debug", "info", "warning")),
        SettingKey(
            "mobile.apn",
            "the mobile network's access point name",
            # 3GPP TS 23.003 section 9.1
            _matching(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,98}[A-Za-z0-9])?", "an access point name such as soracom.io"),
        ),
        SettingKey("mobile.pin", "the SIM's PIN; tried once", _matching(r"[0-9]{4,8}", "4 to 8 digits")),
        SettingKey("mobile.user", "name for the mobile network, if it wants one", _line),
        SettingKey("mobile.password", "password for the mobile network", _line),
        SettingKey("mobile.roaming", "whether data may be used abroad", _yes_or_no),
        SettingKey("mobile.budget_mib", "mobile data a month in MiB, both directions; 0: no limit", _whole(0, 1 << 24)),
        SettingKey(
            "mobile.budget_action", "what happens when they are spent", _choice("report", "tunnel-only", "stop")
        ),
        SettingKey("lan.dhcp", "whether the router hands out addresses on its LAN", _yes_or_no),
        SettingKey(
            "lan.dhcp_range",
            "the addresses for machines without a reservation",
            _matching(rf"{_IPV4}-{_IPV4}", "first and last address such as 192.168.1.100-192.168.1.199"),
        ),
        SettingKey(
            "lan.reservations",
            "machines that always get the same address",
            _items(rf"{_MAC}={_IPV4}(={_NAME})?", "MAC=ADDRESS or MAC=ADDRESS=NAME, separated by commas"),
        ),
        SettingKey(
            "lan.devices",
            "devices on the LAN with an address of their own",
            _items(rf"{_NAME}={_IPV4}", "NAME=ADDRESS, separated by commas"),
        ),
        SettingKey(
            "lan.essential",
            "devices on the LAN that must answer before a new release is kept",
            _items(_IPV4, "addresses on the LAN, separated by commas"),
        ),
        SettingKey(
            "update.health_s", "seconds that a new release must be healthy before it is kept", _seconds(30, 3600)
        ),
        SettingKey("update.reach_s", "seconds that a new release may take until it is healthy", _seconds(30, 3600)),
        SettingKey(
            "update.window",
            "when the router may restart for an update, in the site's time",
            _matching(r"(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?", "HH:MM-HH:MM such as 22:00-05:00"),
        ),
    )
}
