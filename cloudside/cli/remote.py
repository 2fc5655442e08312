"""`kyoten ssh`: remote work on a site, if it is permitted now."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloudside.cli.context import Cli, cli_of
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.access.ssh import Login
    from cloudside.access.target import Target
    from cloudside.registry.addresses import Address


def register(app: typer.Typer) -> None:
    """Put the command into the tree."""
    # Everything behind the target belongs to the far side, options too: `kyoten ssh tokyo-1 ls -l`.
    app.command("ssh", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(ssh)


def ssh(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="SITE[/DEVICE]")],
    command: Annotated[list[str] | None, typer.Argument(help="Run this; else an interactive shell.")] = None,
    user: Annotated[str | None, typer.Option(help="Login on a device. Routers have one.")] = None,
    identity: Annotated[Path | None, typer.Option(help="Private key for a device; else its password is asked.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 22,
) -> None:
    """Log in on a site's router, or on a device of its LAN, through the tunnel. Options stand before the target."""
    from cloudside.access import ssh as connection
    from cloudside.access import target as targets
    from cloudside.access import terminal

    cli = cli_of(context)
    with cli.read() as (session, caller):
        found = targets.resolve(session, caller, target)
    login = _login(cli, found, user, identity)
    if not command and not sys.stdin.isatty():
        raise InputError("access.no-terminal", target=found.name)
    pinned = connection.PinnedKey.read(found.host_key, owner=found.name)
    with connection.connected(found.name, found.address, pinned, login, source=_source(cli), port=port) as transport:
        if command:
            status = terminal.run_command(
                transport,
                found.name,
                command,
                stdin=sys.stdin.fileno(),
                stdout=sys.stdout.buffer,
                stderr=sys.stderr.buffer,
            )
        else:
            status = terminal.run_shell(transport, found.name)
    raise typer.Exit(status)


def _login(cli: Cli, found: "Target", user: str | None, identity: Path | None) -> "Login":
    from cloudside.access.ssh import Login
    from cloudside.access.target import read_login
    from cloudside.pki.store import KeyStore

    name = read_login(user, is_router=found.is_router, name=found.name)
    if found.is_router:
        return Login(name, identity=KeyStore(cli.config.state_directory).operator_key_path())
    if identity is not None:
        return Login(name, identity=identity)
    question = text("cli.password-for", {"user": f"{name}@{found.name}"})
    if not sys.stdin.isatty():
        raise InputError("cli.no-password", target=found.name)
    return Login(name, password=typer.prompt(question, hide_input=True, err=True))


def _source(cli: Cli) -> "Address | None":
    """The gateway's service address: what routers and rules know remote work by. None where this node lacks it."""
    import socket

    address = cli.config.gateway.service_address
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return None
    return address
