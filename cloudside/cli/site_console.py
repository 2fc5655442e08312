"""`kyoten site console`: the response to the challenge that somebody at a router's serial console reads out."""

from typing import Annotated

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import done


def register(app: typer.Typer) -> None:
    """Put the command into the group of `kyoten site`."""
    app.command("console")(console)


def console(
    context: typer.Context,
    site: str,
    challenge: Annotated[str, typer.Argument(help="What the router shows: XXXX-XXXX-XXXX.")],
    reason: Annotated[str, typer.Option(help="Who calls, and why, for the audit log.")] = "",
    _json: JsonFlag = False,
) -> None:
    """Answer a challenge at a router's serial console. Whoever types the response there is root on that router."""
    from cloudside.access import console as answering
    from cloudside.pki.store import KeyStore

    cli = cli_of(context)
    with cli.write() as (session, caller):
        given = answering.answer(
            session,
            caller,
            KeyStore.of(cli.config),
            site,
            challenge,
            reason=reason,
            person=cli.person,
            now=cli.now,
        )
    row = {"site": given.site, "challenge": given.challenge, "response": given.response, "answered_by": cli.person}
    done(cli, row, "access.console-answer", site=given.site, challenge=given.challenge, response=given.response)
