"""What the agent is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from router_agent.link.uplinks import UplinkKind

DEFAULT_STATE = Path("/var/lib/kyoten-agent")
DEFAULT_RUNTIME = Path("/run/kyoten-agent")


@dataclass(frozen=True, slots=True)
class Options:
    """``state`` survives a reboot, ``runtime`` does not need to. ``uplinks``: interface name -> kind.

    ``probe_s``: seconds between probes of a healthy tunnel, None: as fits the line. ``check_s``: seconds between looks
    at routes and packet filter. ``down_at_end``: a stopped agent takes the tunnel down, too.
    """

    state: Path = DEFAULT_STATE
    runtime: Path = DEFAULT_RUNTIME
    lan: str = "lan0"
    uplinks: Mapping[str, UplinkKind] = field(
        default_factory=lambda: {"wan0": UplinkKind.WIRED, "wwan0": UplinkKind.MOBILE}
    )
    probe_s: float | None = None
    check_s: float = 5.0
    down_at_end: bool = False
