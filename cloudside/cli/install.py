"""`kyoten init`: the registry, the authorities and the keys of a new installation."""

import typer

from cloudside.cli.context import JsonFlag, operators_cli_of
from cloudside.cli.output import done


def register(app: typer.Typer) -> None:
    """Put the command into the tree."""
    app.command("init")(init)


def init(context: typer.Context, _json: JsonFlag = False) -> None:
    """Make the registry, the authorities and the keys. Repeating it makes what is missing and renews what ends soon."""
    from cloudside.pki.initialise import initialise
    from cloudside.registry.database import Database

    cli = operators_cli_of(context)
    database = Database(cli.config.registry_url, actor=cli.person)
    try:
        database.migrate()
        with database.write() as session:
            made = initialise(session, cli.config, now=cli.now)
    finally:
        database.close()
    document = {"made": list(made.made), "kept": list(made.kept), "state_directory": str(cli.config.state_directory)}
    done(
        cli,
        document,
        "cli.initialised" if made.made else "cli.initialised-before",
        made=", ".join(made.made),
        kept=", ".join(made.kept) or "-",
        directory=str(cli.config.state_directory),
    )
