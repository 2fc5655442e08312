"""The daemons: `kyoten gateway`, `relay`, `web`, `worker`, and `serve`, which runs all of them on one machine."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli import gateway
from cloudside.cli.context import Cli, operators_cli_of
from cloudside.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from cloudside.alerts.worker import Chore

DAEMONS = ("gateway", "relay", "web", "worker")

_PRUNE_EVERY_S = 3600.0


def register(app: typer.Typer) -> None:
    """Put the commands into the tree."""
    app.add_typer(gateway.app, name="gateway")
    for command in (relay, web, worker, serve):
        app.command()(command)


def relay(context: typer.Context) -> None:
    """Relay sites' mail."""
    import uvloop

    from cloudside.mail import service
    from cloudside.pki import published

    config = operators_cli_of(context).config
    files = published.endpoint_files(config)
    tls = service.TlsFiles(certificate=files.chain, key=files.key)
    service.prepare_process(config.relay)
    children = service.fork_intake(config, tls)
    _until_signal(lambda stop: service.run(config, stop, tls=tls, children=children), run=uvloop.run)


def web(context: typer.Context) -> None:
    """Serve the routers' agents."""
    from cloudside.fleet import web as daemon

    config = operators_cli_of(context).config
    _until_signal(lambda stop: daemon.run(config, stop))


def worker(context: typer.Context) -> None:
    """Do everything that is on a clock: silent sites, revocation lists, renewals, old history."""
    from cloudside.alerts import worker as daemon
    from cloudside.cli import firmware_upkeep, upkeep

    cli = operators_cli_of(context)
    cli.daemon = "worker"
    chores = [*upkeep.chores(cli), *firmware_upkeep.chores(cli), _history(cli), _usage(cli), _rollouts(cli)]
    _until_signal(lambda stop: daemon.run(cli.config, stop, chores=chores))


def serve(
    context: typer.Context,
    without: Annotated[list[str] | None, typer.Option(help="Leave this one out; repeatable.")] = None,
) -> None:
    """Run gateway, relay, web and worker on this machine, and start again what ends."""
    from cloudside import serve as supervisor

    left_out = set(without or ())
    if unknown := left_out - set(DAEMONS):
        raise InputError("cli.unknown-daemon", names=", ".join(sorted(unknown)), known=", ".join(DAEMONS))
    cli = operators_cli_of(context)
    with suppress(UnavailableError):  # a registry that does not answer now is waited for, below
        _ = cli.database  # a wrong configuration, no `kyoten init` yet: told once and here, not four times from below
    command = [sys.executable, "-m", "cloudside.cli.main", "--config", str(cli.config_path)]
    commands = {name: [*command, name] for name in DAEMONS if name not in left_out}
    _until_signal(lambda stop: supervisor.supervise(commands, stop))


def _history(cli: Cli) -> "Chore":
    from cloudside.alerts.worker import Chore
    from cloudside.registry import history
    from cloudside.registry.callers import OPERATOR

    def prune(now: datetime) -> None:
        gone = 1
        while gone:  # in pieces, so that nobody waits long for the writers' lock
            with cli.database.record() as session:
                gone = history.prune(session, OPERATOR, before=now - timedelta(days=cli.config.history_days))

    return Chore("history", _PRUNE_EVERY_S, prune)


def _usage(cli: Cli) -> "Chore":
    from cloudside.alerts.worker import Chore
    from cloudside.registry import usage
    from cloudside.registry.callers import OPERATOR

    def prune(now: datetime) -> None:
        gone = 1
        while gone:  # hour by hour, so that nobody waits long for the writers' lock
            with cli.database.record() as session:
                gone = usage.prune(session, OPERATOR, before=usage.months_ago(now, cli.config.usage_months))

    return Chore("usage", _PRUNE_EVERY_S, prune)


def _rollouts(cli: Cli) -> "Chore":
    from cloudside.alerts.worker import Chore
    from cloudside.fleet.rollouts import keeper

    def step(now: datetime) -> None:
        keeper.step_all(cli.database, now)

    return Chore("rollouts", keeper.STEP_S, step)


def _until_signal(
    daemon: Callable[[asyncio.Event], Awaitable[None]],
    *,
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> None:
    from cloudside.logging import configure

    configure(for_good=True)

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await daemon(stop)

    run(main())
