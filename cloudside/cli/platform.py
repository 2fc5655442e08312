"""`kyoten platform`: the file above all tenants' policies. Operators' business alone; the gate looks at all tenants."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloudside.cli.context import Cli, JsonFlag, operators_cli_of
from cloudside.cli.output import done, print_json, print_text, show_rows
from cloudside.cli.plans import Acknowledge, Plan, as_input, put_in_force, show_plan
from cloudside.cli.policies import COLUMNS, read_text
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from cloudside.registry.callers import Caller
    from cloudside.registry.tables import PlatformPolicy
    from rules.model import PlatformSource

app = typer.Typer(no_args_is_help=True, help="What no tenant's policy may override.")

PlatformText = Annotated[Path, typer.Argument(metavar="FILE", help="The platform's file; - reads standard input.")]
#: What the code of a plan is bound to; no tenant can be called so.
_SCOPE = "(platform)"


@app.command()
def check(context: typer.Context, file: PlatformText, _json: JsonFlag = False) -> None:
    """Say everything that is wrong with a platform file: place, reason, remedy. Changes nothing."""
    from cloudside.registry import inventory
    from rules.parse import parse
    from rules.problems import PolicyError

    cli = operators_cli_of(context)
    source = _source(file)
    with cli.read() as (session, _):
        known = inventory.load(session)
    try:
        parse([], known, source)
    except PolicyError as error:
        raise as_input(error.problems) from None
    done(cli, {"file": source.file_name, "problems": []}, "cli.platform-good", file=source.file_name)


@app.command()
def plan(context: typer.Context, file: PlatformText, _json: JsonFlag = False) -> None:
    """Say what a platform file would open and close, for all tenants, and the plan's code. Changes nothing."""
    cli = operators_cli_of(context)
    with cli.read() as (session, caller):
        held = _plan(cli, session, caller, _source(file))
    show_plan(cli, held, {"version": None}, applied=False, command=f"kyoten platform apply {file}")


@app.command()
def apply(context: typer.Context, file: PlatformText, acknowledge: Acknowledge = None, _json: JsonFlag = False) -> None:
    """Put a platform file in force, unless anything is wrong with it, or it needs a yes and has none."""
    cli = operators_cli_of(context)
    _put_in_force(cli, _source(file), acknowledge, f"kyoten platform plan {file}")


@app.command()
def rollback(
    context: typer.Context,
    to: Annotated[int | None, typer.Option("--to", min=1, help="This version; else the one before.")] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Only say what it would open and close.")] = False,
    acknowledge: Acknowledge = None,
    _json: JsonFlag = False,
) -> None:
    """Put an earlier version of the platform's file in force again, as a new version. Checked as any other is."""
    from rules.model import PlatformSource

    cli = operators_cli_of(context)
    with cli.read() as (session, caller):
        versions = _versions(session, caller)
        newest = versions[0].version if versions else 0
        if to is None and newest < 2:
            raise InputError("cli.no-earlier-platform-version", version=newest or "-")
        kept = _version(versions, newest - 1 if to is None else to)
        if kept.version == newest:
            raise InputError("cli.platform-version-in-force", version=newest)
        source = PlatformSource(kept.file_name, kept.text)
        if only_plan:
            held = _plan(cli, session, caller, source)
            command = f"kyoten platform rollback --to {kept.version}"
            show_plan(cli, held, {"version": None, "again": kept.version}, applied=False, command=command)
            return
    _put_in_force(cli, source, acknowledge, f"kyoten platform rollback --to {kept.version} --plan")


@app.command()
def show(
    context: typer.Context,
    version: Annotated[int | None, typer.Option(help="This version; else the one in force.")] = None,
    _json: JsonFlag = False,
) -> None:
    """The platform's file as it was written."""
    cli = operators_cli_of(context)
    with cli.read() as (session, caller):
        found = _version(_versions(session, caller), version)
    if cli.as_json:
        print_json({"version": found.version, "file": found.file_name, "text": found.text})
    else:
        print_text(found.text.rstrip("\n"))


@app.command()
def history(context: typer.Context, _json: JsonFlag = False) -> None:
    """All versions of the platform's file, newest first; the first is in force."""
    cli = operators_cli_of(context)
    with cli.read() as (session, caller):
        rows = [
            {"version": row.version, "applied": row.applied_at, "author": row.author, "file": row.file_name}
            for row in _versions(session, caller)
        ]
    show_rows(cli, "platform-files", rows, COLUMNS)


def platform_plan(
    session: "Session", caller: "Caller", source: "PlatformSource", *, now: "datetime", limit: int
) -> Plan:
    """A platform file against the one in force, with all tenants' policies below.

    ``told`` of the plan is what policies in force would no longer hold in. Raises InputErrors: every problem of the
    file; RefusedError: the caller is no operator.
    """
    from cloudside.registry import inventory, platform_policies
    from rules.compile import compile_policy
    from rules.diff import diff
    from rules.expect import check as unmet
    from rules.gate import assess
    from rules.model import PlatformSource
    from rules.parse import parse, parse_stored
    from rules.problems import PolicyError

    kept = platform_policies.in_force(session, caller)
    known, sources = inventory.load(session), inventory.policy_sources(session)
    try:
        parse([], known, source)
    except PolicyError as error:
        raise as_input(error.problems) from None
    current = None if kept is None else PlatformSource(kept.file_name, kept.text)
    before, troubles = parse_stored(sources, known, current)
    after, told = parse_stored(sources, known, source)
    was, rule_set = (compile_policy(policy, known, at=now) for policy in (before, after))
    difference = diff(was, rule_set)
    told = (*told, *unmet(rule_set, after))
    troubles = (*troubles, *unmet(was, before))
    against = 0 if kept is None else kept.version
    gate = assess(before, after, known, difference, at=now, scope=_SCOPE, against=against, limit=limit)
    return Plan(after, difference, gate, tuple(one for one in told if one not in troubles))


def _put_in_force(cli: Cli, source: "PlatformSource", acknowledge: str | None, look: str) -> None:
    from cloudside.registry import platform_policies

    def keep(session: "Session", caller: "Caller") -> int:
        return platform_policies.add_version(
            session, caller, text=source.text, file_name=source.file_name, author=cli.person, now=cli.now
        ).version

    held, version = put_in_force(
        cli, lambda session, caller: _plan(cli, session, caller, source), keep, acknowledge=acknowledge, look=look
    )
    show_plan(cli, held, {"version": version}, applied=True)
    if not cli.as_json:
        print_text(text("cli.platform-applied", {"version": version}))


def _plan(cli: Cli, session: "Session", caller: "Caller", source: "PlatformSource") -> Plan:
    return platform_plan(session, caller, source, now=cli.now, limit=cli.config.policy.acknowledge_above_pairs)


def _versions(session: "Session", caller: "Caller") -> "list[PlatformPolicy]":
    from cloudside.registry import platform_policies

    return platform_policies.versions(session, caller)


def _version(versions: "list[PlatformPolicy]", wanted: int | None) -> "PlatformPolicy":
    """That version, or the newest. Raises InputError: there is none."""
    found = next((row for row in versions if wanted in (None, row.version)), None)
    if found is None:
        known = ", ".join(str(row.version) for row in versions) or "-"
        raise InputError("cli.no-platform-version", version=wanted or "-", known=known)
    return found


def _source(file: Path) -> "PlatformSource":
    from rules.model import PlatformSource

    return PlatformSource(*read_text(file))
