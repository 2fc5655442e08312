"""`kyoten rollout list` and `status`: how rollouts stand, once or live."""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.output import console, in_words, print_json, print_table, show_one, show_rows
from cloudside.messages import text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cloudside.registry.tables import Rollout

LIST_COLUMNS = ("rollout", "version", "tenant", "state", "ring", "created", "ended", "author")
RING_COLUMNS = (
    "ring", "who", "soak", "sites", "waiting", "offered", "updated_sites", "failed", "silent", "declined", "missed",
    "withdrawn", "progress",
)  # fmt: skip
TROUBLE_COLUMNS = ("site", "state", "why")
_TARGET_STATES = ("waiting", "offered", "updated", "failed", "silent", "declined", "missed", "withdrawn")
#: States after which nothing more happens by itself.
_STILL = ("halted", "aborted", "finished")
#: Seconds between looks with --watch.
_LOOK_S = 2.0
_BAR_CHARS = 20


def register(app: typer.Typer) -> None:
    """Put the commands into the group."""
    app.command("list")(list_)
    app.command("status")(status)


def list_(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Those that have ended too.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Rollouts that have not ended, newest first."""
    from cloudside.registry import rollouts

    cli = cli_of(context)
    with cli.read() as (session, caller):
        found = rollouts.every(session, caller) if every else rollouts.unfinished(session, caller)[::-1]
    rows = [row_of(row) for row in found]
    if not cli.as_json:
        rows = [{**row, "state": text(f"rollout.state-{row['state']}")} for row in rows]
    show_rows(cli, "rollouts", rows, LIST_COLUMNS)


def status(
    context: typer.Context,
    rollout: Annotated[str | None, typer.Argument(help="Else the newest that has not ended.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Live, until it ends or halts.")] = False,
    most: Annotated[int, typer.Option("--most", min=0, max=10_000, help="So many sites in trouble are named.")] = 20,
    _json: JsonFlag = False,
) -> None:
    """How a rollout stands: ring by ring, how many failed, what it waits for, which sites are in trouble."""
    cli = cli_of(context)
    found = _read(cli, rollout, most)
    if not watch:
        _show(cli, found)
        return
    if cli.as_json:
        _stream(cli, found, most)
    else:
        _live(cli, found, most)


def row_of(row: "Rollout") -> dict[str, Any]:
    """A rollout as stated."""
    return {
        "rollout": row.id,
        "version": row.version,
        "tenant": row.tenant_id,
        "state": row.state,
        "ring": f"{row.ring + 1}/{len(row.plan['rings'])}",
        "created": row.created_at,
        "ended": row.ended_at,
        "author": row.author,
        "cause": row.cause,
    }


def _read(cli: Cli, name: str | None, most: int) -> dict[str, Any]:
    """All that is known of a rollout. Raises InputError: unknown, or there is none."""
    from cloudside.errors import InputError
    from cloudside.fleet.rollouts import keeper
    from cloudside.fleet.rollouts.model import read_plan
    from cloudside.fleet.rollouts.rings import in_words as ring_in_words
    from cloudside.registry import rollouts

    with cli.read() as (session, caller):
        if name is None:
            alive = rollouts.unfinished(session, caller)
            if not alive:
                raise InputError("rollout.none-alive")
            name = alive[-1].id
        row = rollouts.get(session, caller, name)
        progress = rollouts.progress(session, caller, name)
        counts = rollouts.counts(session, caller, name)
        troubles = keeper.problems_of(session, caller, name)
    plan = read_plan(row.plan)
    rings = []
    for number, ring in enumerate(plan.rings):
        who, _, soak = ring_in_words(ring).partition(":")
        own = {state: counts.get((number, state), 0) for state in _TARGET_STATES}
        soak = soak if ring.soak_s else ""
        rings.append({"ring": number + 1, "who": who, "soak": soak, "sites": sum(own.values()), **own})
    report = dict(progress.report) if progress is not None else {}
    report.pop("rings", None)
    return {
        **row_of(row),
        "soak_since": row.soak_since,
        "seen": None if progress is None else progress.at,
        "rings": rings,
        "report": report,
        "troubles": [{"site": site, "state": state, "cause": dict(cause)} for site, state, cause in troubles[:most]],
        "troubles_total": len(troubles),
    }


def _show(cli: Cli, found: Mapping[str, Any]) -> None:
    if cli.as_json:
        print_json(found)
        return
    show_one(cli, _headline(found))
    print_table("rollouts", _ring_rows(found), RING_COLUMNS)
    if found["troubles"]:
        print_table("rollouts", _trouble_rows(found), TROUBLE_COLUMNS)


def _headline(found: Mapping[str, Any]) -> dict[str, Any]:
    report = found["report"]
    lines: dict[str, Any] = {
        "rollout": found["rollout"],
        "version": found["version"],
        "tenant": found["tenant"] or text("cli.all-tenants"),
        "state": text(f"rollout.state-{found['state']}"),
        "ring": found["ring"],
        "created": found["created"],
        "author": found["author"],
    }
    if found["cause"]:
        lines["why"] = text(found["cause"]["key"], found["cause"]["params"])
    if report:
        lines["failures"] = text(
            "rollout.failures",
            {
                "harmed": report["harmed"],
                "judged": report["judged"],
                "lower": _percent(report["lower"]),
                "upper": _percent(report["upper"]),
                "tolerated": _percent(report["tolerated"]),
                "budget": f"{report['budget']:.0f}",
            },
        )
        if report.get("held"):
            lines["held"] = text(report["held"], {"allowance": report["allowance"]})
        if report.get("away"):
            lines["offline"] = report["away"]
        lines["seen"] = found["seen"]
    if found["soak_since"]:
        lines["soak_since"] = found["soak_since"]
    return lines


def _ring_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**ring, "updated_sites": ring["updated"], "progress": _bar(ring)} for ring in found["rings"]]


def _trouble_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "site": one["site"],
            "state": text(f"rollout.target-{one['state']}"),
            "why": text(one["cause"]["key"], {"site": one["site"], **one["cause"].get("params", {})}),
        }
        for one in found["troubles"]
    ]


def _bar(ring: Mapping[str, int]) -> str:
    total = ring["sites"]
    if not total:
        return ""
    settled = sum(ring[state] for state in ("updated", "failed", "silent", "declined", "missed", "withdrawn"))
    filled = _BAR_CHARS * settled // total
    return "█" * filled + "░" * (_BAR_CHARS - filled) + f" {100 * settled // total} %"


def _stream(cli: Cli, found: dict[str, Any], most: int) -> None:
    """A line of JSON for each change."""
    while True:
        print_json(found)
        told: datetime | None = found["seen"]
        while found["seen"] == told:
            if found["state"] in _STILL:
                return
            time.sleep(_LOOK_S)
            found = _read(cli, found["rollout"], most)


def _live(cli: Cli, found: dict[str, Any], most: int) -> None:
    """A picture that moves; Ctrl-C leaves it as it is."""
    from rich.live import Live

    with Live(_picture(found), console=console(), auto_refresh=False) as live:
        while found["state"] not in _STILL:
            time.sleep(_LOOK_S)
            found = _read(cli, found["rollout"], most)
            live.update(_picture(found), refresh=True)


def _picture(found: Mapping[str, Any]) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Table(show_header=False, box=None, pad_edge=False)
    head.add_column(style="bold")
    head.add_column(overflow="fold")
    for name, value in _headline(found).items():
        head.add_row(text(f"cli.column-{name.replace('_', '-')}"), Text(in_words(value)))
    body: list[RenderableType] = [head]
    tables = ((RING_COLUMNS, _ring_rows(found)), (TROUBLE_COLUMNS, _trouble_rows(found)))
    for columns, rows in tables:
        if rows:
            table = Table()
            for column in columns:
                table.add_column(text(f"cli.column-{column.replace('_', '-')}"), overflow="fold")
            for row in rows:
                table.add_row(*(Text(in_words(row.get(column))) for column in columns))
            body.append(table)
    return Group(*body)


def _percent(share: float) -> str:
    return f"{100 * share:.2g}" if share < 1 else "100"
