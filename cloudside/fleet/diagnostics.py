"""The diagnostic commands that a router may be given, and their arguments. Pure.

Names with typed arguments, never a shell. The router has a table of its own and reads everything again: what stands
here is for people, so that a mistake is told before it travels.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from cloudside.errors import InputError, combined
from cloudside.registry.names import closest

Value = str | int

#: Seconds that a command may take: by default, and at most.
TIMEOUT_S = 30
TIMEOUT_MAX_S = 120


@dataclass(frozen=True, slots=True)
class Parameter:
    """``read`` turns what was typed into a value, or raises ValueError saying what is wanted. ``host``: a device of the
    site may be named instead of an address."""

    name: str
    read: Callable[[str], Value]
    required: bool = False
    host: bool = False


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """``disturbs``: the site notices, so a person is asked twice. What it is for: ``commands.about-<name>``."""

    name: str
    parameters: tuple[Parameter, ...] = ()
    disturbs: bool = False

    @property
    def usage(self) -> str:
        """How it is typed."""
        words = [one.name.upper() if one.required else f"[{one.name}=...]" for one in self.parameters]
        return " ".join([self.name, *words])


def _address(text: str) -> Value:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError("an IP address, or a device of the site") from None


def _whole(low: int, high: int) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        if not re.fullmatch(r"[0-9]{1,6}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return read


_TARGET = Parameter("address", _address, required=True, host=True)

DIAGNOSTICS: Mapping[str, Diagnostic] = {
    one.name: one
    for one in (
        Diagnostic(
            "ping",
            (_TARGET, Parameter("count", _whole(1, 20)), Parameter("size", _whole(0, 1472))),
        ),
        Diagnostic("traceroute", (_TARGET, Parameter("hops", _whole(1, 30)))),
        Diagnostic("routes"),
        Diagnostic("addresses"),
        Diagnostic("lan"),
        Diagnostic("connections"),
        Diagnostic("tunnels"),
        Diagnostic("modem"),
        Diagnostic("restart-agent", disturbs=True),
        Diagnostic("reboot", disturbs=True),
    )
}


def parse(name: str, words: Sequence[str], *, devices: Mapping[str, str]) -> dict[str, Value]:
    """The arguments of a command as typed: in the order of its parameters, or ``name=value``.

    ``devices``: addresses of the site's devices on its LAN, by name. Raises InputError (or InputErrors, all that is
    wrong): unknown command or argument, a value that it does not take, too many or too few.
    """
    command = DIAGNOSTICS.get(name)
    if command is None:
        raise InputError("commands.unknown", command=name[:40], known=closest(name, DIAGNOSTICS))
    parameters = {one.name: one for one in command.parameters}
    left = list(command.parameters)
    found: dict[str, Value] = {}
    problems: list[InputError] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            value = word
            key = left[0].name if left else ""
        parameter = parameters.get(key)
        if parameter is None or parameter.name in found:
            problems.append(InputError("commands.no-such-argument", word=word[:80], usage=command.usage))
            continue
        left = [one for one in left if one is not parameter]
        try:
            found[key] = parameter.read(devices.get(value, value) if parameter.host else value)
        except ValueError as wanted:
            problems.append(
                InputError("commands.bad-argument", name=key, value=value[:80], wanted=str(wanted), usage=command.usage)
            )
    for parameter in left:
        if parameter.required and not problems:
            problems.append(InputError("commands.argument-missing", name=parameter.name, usage=command.usage))
    if problems:
        raise combined(problems)
    return found
