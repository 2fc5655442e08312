"""`kyoten gateway`: be a VPN server; and what is done to one on purpose: close it, start its charon anew."""

import signal
import threading
from typing import Annotated

import typer

from cloudside.cli.context import operators_cli_of
from cloudside.cli.output import confirm, done
from cloudside.errors import ConfigurationError, RefusedError

app = typer.Typer(invoke_without_command=True, help="Be a VPN server: charon, routes, rules. Needs root.")

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.callback()
def gateway(context: typer.Context) -> None:
    """Be a VPN server: charon, routes, rules. Needs root."""
    if context.invoked_subcommand is not None:
        return
    from cloudside.logging import configure
    from cloudside.vpn import gateway as daemon

    config = operators_cli_of(context).config
    configure()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    daemon.run(config, stop)


@app.command()
def close(context: typer.Context, yes: Yes = False) -> None:
    """Take this gateway out of service: end charon and with it every tunnel, and forward nothing. The daemon must have
    been stopped; starting it opens the gateway again.
    """
    from cloudside.vpn import gateway as daemon
    from linux import locks
    from linux.errors import LinuxError

    cli = operators_cli_of(context)
    directory, name = cli.config.runtime_directory, cli.config.gateway.name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = locks.take(directory / "gateway.lock")
        if lock is None:
            raise RefusedError("vpn.gateway-still-runs", path=str(directory))
        with lock:
            if not yes:
                confirm(cli, "cli.confirm-close", gateway=name)
            daemon.shut_down(cli.config)
    except (LinuxError, OSError) as error:
        raise ConfigurationError("vpn.gateway-stays-open", reason=str(error)) from error
    done(cli, {"gateway": name, "closed": True}, "cli.gateway-closed", gateway=name)


@app.command()
def restart_charon(context: typer.Context, yes: Yes = False) -> None:
    """End charon so that the gateway starts it anew: every tunnel ends, sites connect again within a minute. Rules stay
    in force. Settings that charon takes only at its start come to count.
    """
    from cloudside.vpn import gateway as daemon
    from linux.errors import LinuxError

    cli = operators_cli_of(context)
    name = cli.config.gateway.name
    if not yes:
        confirm(cli, "cli.confirm-restart-charon", gateway=name)
    try:
        ended = daemon.end_charon(cli.config)
    except (LinuxError, OSError) as error:
        raise ConfigurationError("vpn.charon-failed", reason=str(error)) from error
    if not ended:
        raise RefusedError("vpn.charon-not-running", path=str(cli.config.runtime_directory))
    done(cli, {"gateway": name, "charon_ended": True}, "cli.charon-ended", gateway=name)
