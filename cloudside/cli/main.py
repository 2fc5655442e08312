"""`kyoten`: the command tree, and what becomes of errors."""

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from cloudside.cli import (
    answers,
    audit,
    authorities,
    counters,
    daemons,
    devices,
    diagnose,
    enrolment,
    errors,
    firmware,
    fleet_status,
    grants,
    history,
    incidents,
    install,
    logs,
    mail,
    platform,
    policies,
    remote,
    rollout,
    servers,
    settings,
    settings_many,
    site_console,
    site_crashes,
    site_exec,
    site_labels,
    site_view,
    sites,
    smtp,
    tenants,
    tunnels,
    usage,
)
from cloudside.cli.context import Cli
from cloudside.errors import KyotenError

#: Written out: cloudside.config is not imported before it is needed. A test holds the two equal.
DEFAULT_CONFIG = Path("/etc/kyoten/kyoten.toml")

app = typer.Typer(
    name="kyoten",
    help="A managed VPN gateway for building sites.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(tenants.app, name="tenant")
for part in (site_view, site_labels, site_exec, site_console, site_crashes, diagnose, enrolment):
    part.register(sites.app)
app.add_typer(sites.app, name="site")
settings.app.add_typer(settings_many.app, name="change")
app.add_typer(settings.app, name="settings")
app.add_typer(devices.app, name="device")
app.add_typer(servers.app, name="server")
counters.register(policies.app)
app.add_typer(policies.app, name="policy")
app.add_typer(platform.app, name="platform")
app.add_typer(grants.app, name="grant")
app.add_typer(smtp.app, name="smtp")
app.add_typer(authorities.app, name="authority")
app.add_typer(incidents.app, name="incident")
app.add_typer(rollout.app, name="rollout")
app.add_typer(mail.app, name="mail")
app.add_typer(firmware.app, name="firmware")
app.add_typer(audit.app, name="audit")
app.add_typer(history.app, name="history")
app.add_typer(usage.app, name="usage")
for register in (
    install.register,
    fleet_status.register,
    tunnels.register,
    answers.register,
    remote.register,
    logs.register,
    daemons.register,
):
    register(app)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"kyoten {version('kyoten')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path, typer.Option("--config", envvar="KYOTEN_CONFIG", help="Configuration file.")
    ] = DEFAULT_CONFIG,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Act as this tenant's administrator: see and touch nothing else.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for programs, errors too.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Say the version and end.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """A managed VPN gateway for building sites."""
    os.environ["KYOTEN_CONFIG"] = str(config)  # for command groups that read it themselves
    cli = Cli(config, tenant, as_json)
    context.obj = cli
    context.call_on_close(cli.close)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit status: 0 done, 1 our bug, 2 input, 3 refused, 4 configuration, 5 not now."""
    as_json = _asks_for_json(arguments)
    try:
        status = _command().main(list(arguments) or ["--help"], prog_name="kyoten", standalone_mode=False)
    except KyotenError as error:
        return errors.report(error, as_json=as_json)
    except typer.TyperException as error:
        return errors.report_usage(error.format_message(), as_json=as_json, status=error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return 130  # as a shell has it for SIGINT
    except BrokenPipeError:
        # Whoever read us has gone (`kyoten status | head`); Python must not complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return errors.report_bug(error, as_json=as_json)
    return status if isinstance(status, int) else 0


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:]))


@cache
def _command() -> TyperGroup:
    command = typer.main.get_command(app)
    if not isinstance(command, TyperGroup):
        raise TypeError("the command tree has no commands")
    return command


def _asks_for_json(arguments: Sequence[str]) -> bool:
    # An error can come before the option is parsed. What stands behind `ssh` is another machine's command line.
    for argument in arguments:
        if argument in ("ssh", "--"):
            return False
        if argument == "--json":
            return True
    return False


if __name__ == "__main__":
    main()
