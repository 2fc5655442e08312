"""Why a trial has come back, told from the marks it left and from how the machine was reset. Pure."""

from collections.abc import Sequence

from router_agent.problems import Problem
from router_agent.update import marks
from router_agent.update.machine import Trial
from router_agent.update.marks import Mark

#: How the machine was reset, as the boot's own code found out (guard.py); anything else: nobody knows.
WATCHDOG, PANIC = "watchdog", "panic"

#: An agent that began so often within one trial ends by itself.
RESTARTS = 3


def why(trial: Trial | None, left: Sequence[Mark], reset: str, version: str) -> Problem:
    """The reason, for the report. ``version``: of the release that was tried."""
    params: dict[str, str | int | float] = {"version": version}
    if trial is None:
        return Problem("agent.update-returned-restarted", params)
    reached = [mark.what for mark in left]
    wanted = next((mark.params.get("missing", "") for mark in reversed(left) if "missing" in mark.params), "")
    starts = reached.count(marks.AGENT)
    if starts >= RESTARTS:
        return Problem("agent.update-returned-agent-restarts", {**params, "count": starts})
    if marks.RETURNING in reached or (marks.DEADLINE in reached and marks.AGENT in reached):
        if wanted:
            return Problem("agent.update-returned-unhealthy", {**params, "missing": wanted[:150]})
        return Problem("agent.update-returned-late", params)
    if reset == PANIC:
        return Problem("agent.update-returned-panic", params)
    if marks.GUARD in reached and marks.AGENT not in reached:
        return Problem("agent.update-returned-no-agent", params)
    if reset == WATCHDOG or marks.STILL in reached:
        return Problem("agent.update-returned-hung", params)
    if marks.AGENT not in reached:
        return Problem("agent.update-returned-unbootable", params)
    return Problem("agent.update-returned-restarted", params)
