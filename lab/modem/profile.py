"""What a modem is like, and what goes wrong with it. Pure.

sim = "pin"                # ready, pin, puk, missing, broken
pin = "4711"
registration = 5           # 27.007 <stat>: 1 home, 2 searching, 3 denied, 5 roaming
csq = 99

[[faults]]
on = "AT+CREG?"            # commands that begin with this
times = 1                  # how often it strikes; 0: always
unsolicited = ['+CREG: 1', 'RING']
"""

import tomllib
from dataclasses import dataclass, field, fields
from typing import Any


class ScriptError(ValueError):
    """The script cannot be used; the text says why."""


@dataclass(slots=True)
class Fault:
    """Strikes at commands that begin with ``on``. What is set happens, in this order.

    ``unsolicited``: lines before the answer. ``garbage``: so many bytes that are no text. ``answer``: instead of the
    modem's own. ``slow``: byte by byte. ``hang_s``: silence so long, from now on. ``cure``: silence until this is done
    to the modem: atz, dtr, cfun, hook. ``reset``: it restarts instead of answering. ``vanish_s``: so does its device.
    """

    on: str = "AT"
    times: int = 1
    unsolicited: list[str] = field(default_factory=list)
    garbage: int = 0
    answer: list[str] = field(default_factory=list)
    slow: bool = False
    hang_s: float = 0.0
    cure: str = ""
    reset: bool = False
    vanish_s: float = 0.0
    struck: int = 0

    def strikes(self, command: str) -> bool:
        """Whether it happens at this command; counts."""
        if not command.startswith(self.on) or (self.times and self.struck >= self.times):
            return False
        self.struck += 1
        return True


@dataclass(slots=True)
class Profile:
    """The modem, its SIM and its network. Tests change it while the modem runs."""

    imei: str = "490154203237518"
    iccid: str = "8981100005819480000"
    sim: str = "ready"
    pin: str = ""
    pin_tries: int = 3
    knows_cpinr: bool = True
    registration: int = 1
    operator: str = "44010"
    technology: int = 7
    csq: int = 23
    rsrp: int = 60
    echo: bool = True
    boot_s: float = 0.3
    #: How a call goes: connect (a pppd at the other end), silent (CONNECT and nothing), or a result code.
    call: str = "connect"
    #: Name and password that the network wants in a call; empty: none.
    user: str = ""
    password: str = ""
    faults: list[Fault] = field(default_factory=list)


def parse(text: str) -> Profile:
    """A script. Raises ScriptError."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScriptError(f"not TOML: {error}") from None
    faults = values.pop("faults", [])
    if not isinstance(faults, list):
        raise ScriptError("faults: [[faults]] tables are wanted")
    profile = Profile(**_checked(Profile(), values, "modem"))
    profile.faults = [Fault(**_checked(Fault(), fault, "fault")) for fault in faults]
    return profile


def _checked(default: Any, values: Any, what: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ScriptError(f"{what}: a table is wanted")
    known = {each.name: getattr(default, each.name) for each in fields(default)}
    for name, value in values.items():
        if name not in known:
            raise ScriptError(f"{what}: there is no '{name}'; known: {', '.join(known)}")
        wanted = (int, float) if isinstance(known[name], float) else type(known[name])
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise ScriptError(f"{what}: '{name}' is to be a {type(known[name]).__name__}")
    return values
