"""What the agent is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from router_agent.bundle import Address
from router_agent.link.choice import HOLD_S
from router_agent.link.uplinks import UplinkKind
from router_agent.modem.modem import ModemOptions
from router_agent.places import DEFAULT_RUNTIME, DEFAULT_STATE
from router_agent.tunnel.home import HOME_S


@dataclass(frozen=True, slots=True)
class Options:
    """``state`` survives a reboot, ``runtime`` does not need to. ``uplinks``: interface name -> kind.

    ``owns_lan``: the LAN interface gets the LAN's first host address from the agent, and no other.
    ``probe_s``: seconds between probes of a healthy tunnel, None: as fits the line. ``check_s``: seconds between looks
    at routes and packet filter. ``down_at_end``: a stopped agent takes the tunnel down, too. ``hold_s``: how long the
    preferred line must be well before it is used again. ``home_s``: how long a tunnel stays with another gateway than
    the first before that one is asked again. ``targets``: what lines are probed with besides the cloud.
    ``modem``: the modem that makes the first mobile uplink's calls, None: something else sees to that line.
    ``reboot``: the program that starts the machine anew, None: systemctl. ``sets_clock``: the machine's clock is the
    agent's to set; it is the whole machine's, whatever namespace the agent is in.
    """

    state: Path = DEFAULT_STATE
    runtime: Path = DEFAULT_RUNTIME
    lan: str = "lan0"
    owns_lan: bool = False
    uplinks: Mapping[str, UplinkKind] = field(
        default_factory=lambda: {"wan0": UplinkKind.WIRED, "wwan0": UplinkKind.MOBILE}
    )
    probe_s: float | None = None
    check_s: float = 5.0
    down_at_end: bool = False
    hold_s: float = HOLD_S
    home_s: float = HOME_S
    targets: tuple[Address, ...] = ()
    modem: ModemOptions | None = None
    reboot: Path | None = None
    sets_clock: bool = False
