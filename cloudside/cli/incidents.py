"""`kyoten incident`: conditions that staff should know of."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import done, show_rows
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.registry.tables import Incident

app = typer.Typer(no_args_is_help=True, help="Conditions that staff should know of.")

COLUMNS = ("id", "opened", "closed", "kind", "subject", "summary", "acknowledged_by")


@app.command("list")
def list_(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Closed ones too.")] = False,
    most: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many with --all.")] = 100,
    _json: JsonFlag = False,
) -> None:
    """What is open, newest first."""
    from cloudside.registry import incidents

    cli = cli_of(context)
    with cli.read() as (session, caller):
        found = incidents.latest(session, caller, most=most) if every else incidents.still_open(session, caller)
    show_rows(cli, "incidents", [row_of(incident) for incident in found], COLUMNS)


@app.command()
def ack(
    context: typer.Context, incident: Annotated[int, typer.Argument(metavar="ID")], _json: JsonFlag = False
) -> None:
    """Note that you look after it."""
    from cloudside.registry import incidents

    cli = cli_of(context)
    with cli.write() as (session, caller):
        kept = incidents.acknowledge(session, caller, incident_id=incident, person=cli.person)
    done(cli, row_of(kept), "cli.acknowledged", incident=kept.id, person=kept.acknowledged_by or "-")


def row_of(incident: "Incident") -> dict[str, Any]:
    """An incident as JSON and tables have it; its summary is the subject line of the notice to staff."""
    params = {**incident.params, "subject": incident.subject, "opened": f"{incident.opened_at:%Y-%m-%d %H:%M:%S} UTC"}
    return {
        "id": incident.id,
        "opened": incident.opened_at,
        "closed": incident.closed_at,
        "kind": incident.kind,
        "subject": incident.subject,
        "params": incident.params,
        "summary": text(f"alerts.{incident.kind}-subject", params),
        "acknowledged_by": incident.acknowledged_by,
    }
