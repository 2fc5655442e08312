"""`kyoten smtp`: what a site's devices log in with at the relay. Passwords come on standard input, not in argv."""

import sys
from typing import Annotated

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import done, show_rows
from cloudside.messages import text

app = typer.Typer(no_args_is_help=True, help="Mail logins of sites' devices.")

#: Longest password that is read; argon2 would take any length.
_PASSWORD_MAX_CHARS = 1024


@app.command("add-user")
def add_user(context: typer.Context, site: str, user: str, _json: JsonFlag = False) -> None:
    """Give a site a mail login. The password is asked for, or is the first line of standard input."""
    from cloudside.registry import credentials, sites

    cli = cli_of(context)
    with cli.read() as (session, caller):
        sites.get(session, caller, site)  # a wrong name is told before a password is typed
    if sys.stdin.isatty():
        password = typer.prompt(text("cli.password-for", {"user": user}), hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline(_PASSWORD_MAX_CHARS).rstrip("\r\n")
    with cli.write("relay") as (session, caller):
        made = credentials.issue(session, caller, site_id=site, user=user, password=password, now=cli.now)
    done(cli, {"user": made.user, "site": made.site_id}, "cli.smtp-user-added", user=made.user, site=made.site_id)


@app.command("list")
def list_(context: typer.Context, site: Annotated[str, typer.Argument()], _json: JsonFlag = False) -> None:
    """A site's mail logins."""
    from cloudside.registry import credentials

    cli = cli_of(context)
    with cli.read() as (session, caller):
        rows = [
            {"user": row.user, "site": row.site_id, "created": row.created_at, "revoked": row.revoked_at}
            for row in credentials.of_site(session, caller, site)
        ]
    show_rows(cli, "smtp-users", rows, ("user", "site", "created", "revoked"))


@app.command("revoke-user")
def revoke_user(context: typer.Context, user: str, _json: JsonFlag = False) -> None:
    """End a mail login for good."""
    from cloudside.registry import credentials

    cli = cli_of(context)
    with cli.write("relay") as (session, caller):
        revoked = credentials.revoke(session, caller, user=user, now=cli.now)
    done(cli, {"user": revoked.user, "revoked": revoked.revoked_at}, "cli.smtp-user-revoked", user=revoked.user)
