"""May remote work on this site start now? Pure: what the registry knows goes in, an error with the reason comes out.

Remote work over the mobile line is permitted in construction and commissioning only: radio is unsteady, and a
controller whose change breaks off half way needs a visit.
"""

from dataclasses import dataclass
from datetime import datetime

from cloudside import messages
from cloudside.errors import RefusedError, UnavailableError

#: Phases in which the mobile line may carry remote work.
MOBILE_PHASES = frozenset({"construction", "commissioning"})


@dataclass(frozen=True, slots=True)
class ReportedProblem:
    """A problem as the router reported it: a message key and its parameters."""

    key: str
    params: dict[str, str | int | float]

    def in_words(self, language: str | None = None) -> str:
        """The catalogue's text."""
        return messages.text(self.key, self.params, language=language)


@dataclass(frozen=True, slots=True)
class LastReport:
    """What remote work needs of the last heartbeat. ``uplink`` is wired, mobile or none."""

    received_at: datetime
    uplink: str
    problems: tuple[ReportedProblem, ...]


@dataclass(frozen=True, slots=True)
class TunnelState:
    """What the gateways see: up when any of them has the tunnel. ``since`` None: no gateway has ever seen it."""

    up: bool
    since: datetime | None


@dataclass(frozen=True, slots=True)
class SiteState:
    """A site as remote work sees it."""

    site: str
    phase: str
    revoked_at: datetime | None
    tunnel: TunnelState
    report: LastReport | None


def check(state: SiteState) -> None:
    """Return when work through the tunnel may start.

    Raises RefusedError: revoked, or on the mobile line in the wrong phase. UnavailableError: never reported, or the
    tunnel is down (since when, and what the router last complained of).
    """
    require_in_service(state)
    if state.report is None:
        raise UnavailableError("access.never-reported", site=state.site)
    if not state.tunnel.up:
        raise _tunnel_down(state, state.report)
    check_line(state)


def check_line(state: SiteState) -> None:
    """Return when work that needs no tunnel may start: a log pull, a settings change. They are what is left to do when
    the tunnel is down. Raises RefusedError as check does.
    """
    require_in_service(state)
    if state.report is not None and state.report.uplink == "mobile" and state.phase not in MOBILE_PHASES:
        raise RefusedError(
            "access.mobile-line", site=state.site, phase=state.phase, reported=_shown(state.report.received_at)
        )


def require_in_service(state: SiteState) -> None:
    """Return when anything may be done for the site at all. Raises RefusedError: it is revoked."""
    if state.revoked_at is not None:
        raise RefusedError("access.revoked", site=state.site, since=_shown(state.revoked_at))


def _tunnel_down(state: SiteState, report: LastReport) -> UnavailableError:
    if state.tunnel.since is None:
        return UnavailableError("access.tunnel-never-up", site=state.site, reported=_shown(report.received_at))
    down = {"site": state.site, "since": _shown(state.tunnel.since), "reported": _shown(report.received_at)}
    if not report.problems:
        return UnavailableError("access.tunnel-down", **down)
    problem = report.problems[-1]
    return UnavailableError("access.tunnel-down-problem", problem=problem.in_words(), problem_key=problem.key, **down)


def _shown(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
