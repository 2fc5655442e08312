"""What ``kyoten-agent update`` says to a person at the router."""

from collections.abc import Mapping, Sequence

from router_agent.messages import text


def status_lines(found: Mapping[str, object], *, running: bool) -> Sequence[str]:
    """How the update and the modules stand. ``found``: the agent's status document."""
    lines = [] if running else [text("agent-cli.status-stopped")]
    firmware = found.get("firmware")
    if not isinstance(firmware, dict):
        return [*lines, text("agent-cli.update-none")]
    lines.append(text("agent-cli.update-runs", {"version": "", "hardware": "", "counter": 0, "slot": "", **firmware}))
    stage = str(firmware.get("stage", ""))
    known = {"stage": stage, "release": firmware.get("release") or "-", "since_s": firmware.get("since_s", 0)}
    lines.append(text("agent-cli.update-stage", known))
    if firmware.get("progress_pct") is not None:
        fetched = int(firmware.get("bytes_fetched") or 0)
        lines.append(
            text("agent-cli.update-progress", {"pct": firmware["progress_pct"], "mib": round(fetched / 2**20, 1)})
        )
    lines += _problem(firmware.get("problem"))
    modules = found.get("modules")
    for module in modules if isinstance(modules, list) else []:
        lines.append(text("agent-cli.update-module", module))
        lines += _problem(module.get("problem"))
    return lines


def check_lines(found: Mapping[str, object]) -> Sequence[str]:
    """What is published for this router. ``found``: what step.check says."""
    lines = [text("agent-cli.update-runs", found)]
    if found["yanked"] is not None:
        lines.append(text("agent-cli.update-yanked", {"reason": found["yanked"]}))
    releases = found["releases"]
    for release in releases if isinstance(releases, list) else []:
        lines.append(text("agent-cli.update-published", {**release, "yanked": _mark(release)}))
    modules = found["modules"]
    for module in modules if isinstance(modules, list) else []:
        lines.append(text("agent-cli.update-module-published", {**module, "yanked": _mark(module)}))
    if not releases:
        lines.append(text("agent-cli.update-nothing-published"))
    return lines


def _mark(one: Mapping[str, object]) -> str:
    return "" if one["yanked"] is None else text("agent-cli.update-mark-yanked", {"reason": one["yanked"]})


def _problem(problem: object) -> list[str]:
    if not isinstance(problem, dict):
        return []
    params = ", ".join(f"{name}={value}" for name, value in problem["params"].items())
    return [text("agent-cli.status-problem", {"key": problem["key"], "params": params})]
