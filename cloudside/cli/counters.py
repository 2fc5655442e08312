"""`kyoten policy counters`, `refused`: what a policy's statements are used for, and who was refused and why."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import print_json, print_table, print_text
from cloudside.cli.plans import inventory_of, stored
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.registry.counters import Total
    from cloudside.registry.tables import Refusal
    from rules.model import Statement

COUNTER_COLUMNS = ("statement", "action", "flows", "packets", "bytes", "refused", "last_used", "place")
REFUSED_COLUMNS = ("last_seen", "from", "to", "service", "why", "gateway")
#: Rows that people are shown; JSON has all.
ROWS_MAX = 100


def register(app: typer.Typer) -> None:
    """Put the commands into `kyoten policy`."""
    app.command("counters")(counters)
    app.command("refused")(refused)


def counters(
    context: typer.Context,
    tenant: str,
    days: Annotated[int, typer.Option("--days", min=1, max=400, help="Count this many days, today included.")] = 30,
    _json: JsonFlag = False,
) -> None:
    """How much each statement of the policy in force let pass, those never used too, and when last."""
    from cloudside.registry import counters as kept
    from cloudside.registry import policies

    cli = cli_of(context)
    since = cli.now.date() - timedelta(days=days - 1)
    with cli.read() as (session, caller):
        totals = kept.totals(session, caller, tenant, since=since)
        blocked = kept.refused_by_statement(kept.refused(session, caller, tenant))
        version = policies.in_force(session, caller, tenant)
        known, platform = inventory_of(session, [tenant])
    statements: tuple[Statement, ...] = ()
    if version is not None:
        policy, _ = stored(version.tenant_id, version.file_name, version.text, known, platform)
        statements = policy.statements
    rows = [_counter_row(one, totals.get(one.id), blocked.get(one.id)) for one in statements]
    if cli.as_json:
        applied = None if version is None else version.applied_at
        print_json({"tenant": tenant, "since": since.isoformat(), "applied": applied, "statements": rows})
        return
    print_table("counters", rows, COUNTER_COLUMNS)
    unused = sum(row["last_used"] is None for row in rows)
    if version is not None and rows:
        params = {"unused": unused, "count": len(rows), "since": since.isoformat(), "days": days}
        print_text(text("cli.counters-unused", {**params, "applied": f"{version.applied_at:%Y-%m-%d %H:%M:%S}"}))


def _counter_row(one: "Statement", total: "Total | None", blocked: "tuple[int, Any] | None") -> dict[str, Any]:
    row: dict[str, Any] = {"statement": str(one.id), "action": one.action.value, "place": str(one.place)}
    row |= {"flows": None, "packets": None, "bytes": None, "refused": None, "last_used": None}
    if one.action.value == "deny":
        row["refused"], row["last_used"] = blocked or (0, None)
    elif total is None:
        row |= {"flows": 0, "packets": 0, "bytes": 0}
    else:
        row |= {"flows": total.flows, "packets": total.packets, "bytes": total.bytes, "last_used": total.last_used}
    return row


def refused(
    context: typer.Context,
    tenant: str,
    site: Annotated[
        str | None, typer.Option("--site", help="Only what came from this site or was meant for it.")
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Who tried to reach what and was refused, and why; the newest first."""
    from cloudside.registry import counters as kept
    from cloudside.registry import sites

    cli = cli_of(context)
    with cli.read() as (session, caller):
        if site is not None:
            sites.get(session, caller, site)
        rows = [_refused_row(row) for row in kept.refused(session, caller, tenant, site=site)]
    if cli.as_json:
        print_json({"tenant": tenant, "refused": rows})
        return
    shown = [
        {**row, "from": _end(row, "source"), "to": _end(row, "destination"), "why": row["text"]}
        for row in rows[:ROWS_MAX]
    ]
    print_table("refused", shown, REFUSED_COLUMNS)
    if len(rows) > ROWS_MAX:
        print_text(text("cli.more-rows", {"count": len(rows) - ROWS_MAX}))


def _refused_row(row: "Refusal") -> dict[str, Any]:
    return {
        "source": row.source,
        "source_address": row.source_address,
        "destination": row.destination,
        "destination_address": row.destination_address,
        "service": row.service,
        "reason": row.reason,
        "params": row.params,
        "text": text(row.reason, row.params),
        "statements": row.statements.split(),
        "gateway": row.gateway,
        "first_seen": row.first_seen,
        "last_seen": row.last_seen,
    }


def _end(row: dict[str, Any], side: str) -> str:
    name, address = row[side], row[f"{side}_address"]
    return str(name) if name == address else f"{name}\n{address}"
