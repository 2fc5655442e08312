"""`kyoten mail new-return-key`: the key that signs return addresses is replaced, the old ones stay good."""

import typer

from cloudside.cli.context import JsonFlag, operators_cli_of
from cloudside.cli.output import done


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("new-return-key")(new_return_key)


def new_return_key(context: typer.Context, _json: JsonFlag = False) -> None:
    """Sign return addresses with a new key. Bounces of mail under the last three keys are recognised as before."""
    from cloudside.mail.bounces import keys

    cli = operators_cli_of(context)
    path = cli.config.state_directory / "mail" / keys.FILE_NAME
    kept = keys.rotate(path)
    done(cli, {"path": str(path), "keys": kept}, "bounces.key-rotated", path=str(path), keys=kept)
