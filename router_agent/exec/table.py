"""The commands that this router runs for staff, and how their arguments are read. Pure.

The cloud has checked them before; that is its business. What is not in here is not run, and no argument gets near a
shell: each is a value of a known form in a place of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

Value = str | int


class NotTaken(ValueError):
    """A command or an argument that is not known here, or not of the form it has to have. The text says which."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Run these one after the other, each an argv; what they write is the answer."""

    argvs: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Look:
    """Answered by the agent itself; ``what``: a name of `answers`."""

    what: str


@dataclass(frozen=True, slots=True)
class Restart:
    """The agent, or the whole router, starts anew; the answer comes from the next agent. ``machine``: the router."""

    machine: bool


Plan = Programs | Look | Restart


def plan(name: str, arguments: Mapping[str, Value], *, lan: str) -> Plan:
    """What to do for a command; ``lan``: the LAN's interface. Raises NotTaken."""
    made = _TABLE.get(name)
    if made is None:
        raise NotTaken(name)
    known, make = made
    for argument in arguments:
        if argument not in known:
            raise NotTaken(argument)
    return make(arguments, lan)


def _ping(arguments: Mapping[str, Value], _lan: str) -> Plan:
    target, count = _address(arguments, "address"), _whole(arguments, "count", 1, 20, 4)
    size = _whole(arguments, "size", 0, 1472, 56)
    return Programs((("ping", "-n", "-c", str(count), "-s", str(size), "-i", "0.5", "-W", "2", "--", target),))


def _traceroute(arguments: Mapping[str, Value], _lan: str) -> Plan:
    target, hops = _address(arguments, "address"), _whole(arguments, "hops", 1, 30, 15)
    return Programs((("traceroute", "-n", "-q", "1", "-w", "2", "-m", str(hops), "--", target),))


def _fixed(*argvs: tuple[str, ...]) -> Callable[[Mapping[str, Value], str], Plan]:
    return lambda _arguments, _lan: Programs(argvs)


def _lan(_arguments: Mapping[str, Value], lan: str) -> Plan:
    return Programs((("ip", "-statistics", "neighbour", "show", "dev", lan),))


def _address(arguments: Mapping[str, Value], name: str) -> str:
    try:
        # An address object, and so no option and no name to look up, whatever was typed.
        return str(ip_address(str(arguments[name])))
    except (KeyError, ValueError):
        raise NotTaken(name) from None


def _whole(arguments: Mapping[str, Value], name: str, low: int, high: int, otherwise: int) -> int:
    value = arguments.get(name, otherwise)
    if not isinstance(value, int) or not low <= value <= high:
        raise NotTaken(name)
    return value


_Made = tuple[frozenset[str], Callable[[Mapping[str, Value], str], Plan]]
_TABLE: Mapping[str, _Made] = {
    "ping": (frozenset({"address", "count", "size"}), _ping),
    "traceroute": (frozenset({"address", "hops"}), _traceroute),
    "routes": (frozenset(), _fixed(("ip", "rule", "show"), ("ip", "route", "show", "table", "all"))),
    "addresses": (frozenset(), _fixed(("ip", "-statistics", "address", "show"))),
    "lan": (frozenset(), _lan),
    "connections": (frozenset(), lambda _a, _l: Look("connections")),
    "tunnels": (frozenset(), lambda _a, _l: Look("tunnels")),
    "modem": (frozenset(), lambda _a, _l: Look("modem")),
    "restart-agent": (frozenset(), lambda _a, _l: Restart(machine=False)),
    "reboot": (frozenset(), lambda _a, _l: Restart(machine=True)),
}

#: Their names.
NAMES = tuple(_TABLE)
