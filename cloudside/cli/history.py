"""`kyoten history`: how long the ups and downs of sites are kept."""

from typing import Annotated

import typer

from cloudside.cli.context import JsonFlag, operators_cli_of
from cloudside.cli.moments import past
from cloudside.cli.output import done

app = typer.Typer(no_args_is_help=True, help="The kept history of tunnels; one site's is `kyoten site history`.")


@app.callback()
def group() -> None:
    """The kept history of tunnels; one site's is `kyoten site history`."""


@app.command()
def prune(
    context: typer.Context,
    before: Annotated[str, typer.Option(metavar="MOMENT", help="'2026-12-24' in UTC, or 400d ago.")],
    _json: JsonFlag = False,
) -> None:
    """Forget ups, downs and problems older than a moment. `kyoten worker` does so by itself, see history_days."""
    from cloudside.registry import history

    cli = operators_cli_of(context)
    until = past(before, now=cli.now)
    gone = 0
    while True:  # in pieces, so that nobody waits long for the writers' lock
        with cli.database.record() as session:
            pruned = history.prune(session, cli.caller, before=until)
        gone += pruned
        if pruned == 0:
            break
    shown = f"{until:%Y-%m-%d %H:%M}"
    done(cli, {"before": until, "pruned": gone}, "cli.history-pruned", count=gone, before=shown)
