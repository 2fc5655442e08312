"""`kyoten policy`: what a tenant's policy says, what it would change, and putting it in force."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.output import done, print_json, print_text, show_rows
from cloudside.cli.plans import (
    Acknowledge,
    difference_document,
    inventory_of,
    policy_plan,
    problem_rows,
    problem_text,
    put_in_force,
    show_difference,
    show_plan,
    stored,
)
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from cloudside.cli.plans import Plan
    from cloudside.registry.callers import Caller
    from cloudside.registry.tables import Policy as Version
    from rules.model import PolicySource

app = typer.Typer(no_args_is_help=True, help="Who may reach whom.")

PolicyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A tenant's policy; - reads standard input.")]
COLUMNS = ("version", "applied", "author", "file")


@app.command()
def check(context: typer.Context, file: PolicyFile, _json: JsonFlag = False) -> None:
    """Say everything that is wrong with a policy file, and what in it says nothing. Changes nothing."""
    from rules.advice import advise

    cli = cli_of(context)
    source = _source(cli, file)
    with cli.read() as (session, caller):
        held = _plan(cli, session, caller, source)
        known, _ = inventory_of(session, [source.tenant])
    advice = advise(held.policy, known, cli.now)
    statements = len(held.policy.statements)
    document = {"tenant": source.tenant, "statements": statements, "problems": [], "advice": problem_rows(advice)}
    if not cli.as_json:
        for one in advice:
            print_text(text("cli.policy-advice", {"advice": problem_text(one)}))
    done(cli, document, "cli.policy-good", file=source.file_name, statements=statements)


@app.command()
def plan(context: typer.Context, file: PolicyFile, _json: JsonFlag = False) -> None:
    """Say what a policy file would open and close, as behaviour, and the plan's code. Changes nothing."""
    cli = cli_of(context)
    source = _source(cli, file)
    with cli.read() as (session, caller):
        held = _plan(cli, session, caller, source)
    document = {"tenant": source.tenant, "version": None}
    show_plan(cli, held, document, applied=False, command=f"kyoten policy apply {file}")


@app.command()
def apply(context: typer.Context, file: PolicyFile, acknowledge: Acknowledge = None, _json: JsonFlag = False) -> None:
    """Put a policy file in force, unless anything is wrong with it, or it needs a yes and has none. A file that is in
    force as it stands makes no new version.
    """
    cli = cli_of(context)
    source = _source(cli, file)
    # Who gives a plan's code is told whether it is that plan's.
    if acknowledge is None and (version := _in_force(cli, source)) is not None:
        done(cli, {"tenant": source.tenant, "version": version, "unchanged": True}, "cli.policy-unchanged",
             tenant=source.tenant, version=version)  # fmt: skip
        return
    _put_in_force(cli, source, acknowledge, f"kyoten policy plan {file}")


@app.command()
def rollback(
    context: typer.Context,
    tenant: str,
    to: Annotated[int | None, typer.Option("--to", min=1, help="This version; else the one before.")] = None,
    only_plan: Annotated[bool, typer.Option("--plan", help="Only say what it would open and close.")] = False,
    acknowledge: Acknowledge = None,
    _json: JsonFlag = False,
) -> None:
    """Put an earlier version of a tenant's policy in force again, as a new version. Checked as any other is."""
    from rules.model import PolicySource

    cli = cli_of(context)
    with cli.read() as (session, caller):
        versions = _versions(session, caller, tenant)
        newest = versions[0].version if versions else 0
        if to is None and newest < 2:
            raise InputError("cli.no-earlier-version", tenant=tenant, version=newest or "-")
        kept = _version(versions, tenant, newest - 1 if to is None else to)
        if kept.version == newest:
            raise InputError("cli.version-in-force", tenant=tenant, version=newest)
        source = PolicySource(kept.tenant_id, kept.file_name, kept.text)
        if only_plan:
            held = _plan(cli, session, caller, source)
            command = f"kyoten policy rollback {tenant} --to {kept.version}"
            document = {"tenant": tenant, "version": None, "again": kept.version}
            show_plan(cli, held, document, applied=False, command=command)
            return
    look = f"kyoten policy rollback {tenant} --to {kept.version} --plan"
    _put_in_force(cli, source, acknowledge, look)


@app.command("diff")
def diff_(
    context: typer.Context,
    tenant: str,
    from_: Annotated[
        int | None, typer.Option("--from", min=0, help="This version; 0 is none. Else the one before.")
    ] = None,
    to: Annotated[int | None, typer.Option("--to", min=1, help="This version; else the one in force.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="This file instead of a version.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Say what changed between two versions, or the version in force and a file, as behaviour: not as text."""
    from rules.compile import compile_policy
    from rules.diff import diff

    cli = cli_of(context)
    if file is not None and to is not None:
        raise InputError("cli.usage", message="--to and --file exclude each other")
    with cli.read() as (session, caller):
        versions = _versions(session, caller, tenant)
        known, platform = inventory_of(session, [tenant])
        newest = versions[0].version if versions else 0
        told: list[str] = []

        def rule_set(version: int) -> Any:
            if version == 0:
                return None
            kept = _version(versions, tenant, version)
            policy, problems = stored(tenant, kept.file_name, kept.text, known, platform)
            told.extend(
                text("cli.version-problem", {"version": version, "problem": problem_text(one)}) for one in problems
            )
            return compile_policy(policy, known, at=cli.now)

        if file is not None:
            source = _source(cli, file)
            if source.tenant != tenant:
                raise InputError("cli.file-of-another", path=str(file), tenant=tenant)
            earlier = newest if from_ is None else from_
            later, name = compile_policy(_plan(cli, session, caller, source).policy, known, at=cli.now), str(file)
        else:
            target = newest if to is None else to
            earlier = max(target - 1, 0) if from_ is None else from_
            _version(versions, tenant, target)
            later, name = rule_set(target), str(target)
        difference = diff(rule_set(earlier), later)
    if cli.as_json:
        end: dict[str, Any] = {"to": None if file is not None else int(name), "problems": told}
        print_json({"tenant": tenant, "from": earlier, **end, **difference_document(difference)})
        return
    for line in told:
        print_text(line)
    params = {"before": earlier or "-", "after": name}
    show_difference(difference, text("cli.title-diff-opened", params), text("cli.title-diff-closed", params))


@app.command()
def show(
    context: typer.Context,
    tenant: str,
    version: Annotated[int | None, typer.Option(help="This version; else the one in force.")] = None,
    _json: JsonFlag = False,
) -> None:
    """A tenant's policy as it was written."""
    cli = cli_of(context)
    with cli.read() as (session, caller):
        versions = _versions(session, caller, tenant)
    found = _version(versions, tenant, version)
    if cli.as_json:
        print_json({"tenant": tenant, "version": found.version, "file": found.file_name, "text": found.text})
    else:
        print_text(found.text.rstrip("\n"))


@app.command()
def history(context: typer.Context, tenant: str, _json: JsonFlag = False) -> None:
    """All versions of a tenant's policy, newest first; the first is in force."""
    cli = cli_of(context)
    with cli.read() as (session, caller):
        rows = [
            {"version": row.version, "applied": row.applied_at, "author": row.author, "file": row.file_name}
            for row in _versions(session, caller, tenant)
        ]
    show_rows(cli, "policies", rows, COLUMNS)


def _put_in_force(cli: Cli, source: "PolicySource", acknowledge: str | None, look: str) -> None:
    from cloudside.registry import policies

    def keep(session: "Session", caller: "Caller") -> int:
        return policies.add_version(
            session,
            caller,
            tenant_id=source.tenant,
            text=source.text,
            file_name=source.file_name,
            author=cli.person,
            now=cli.now,
        ).version

    held, version = put_in_force(
        cli, lambda session, caller: _plan(cli, session, caller, source), keep, acknowledge=acknowledge, look=look
    )
    show_plan(cli, held, {"tenant": source.tenant, "version": version}, applied=True)
    if not cli.as_json:
        print_text(text("cli.policy-applied", {"tenant": source.tenant, "version": version}))


def _in_force(cli: Cli, source: "PolicySource") -> int | None:
    """The version in force if it says just this; None: it says something else, or there is none."""
    from cloudside.registry import policies

    with cli.read() as (session, caller):
        try:
            newest = policies.in_force(session, caller, source.tenant)
        except InputError:
            return None  # an unknown tenant: told by the plan, with the place in the file
        return newest.version if newest is not None and newest.text == source.text else None


def _plan(cli: Cli, session: "Session", caller: "Caller", source: "PolicySource") -> "Plan":
    limit = cli.config.policy.acknowledge_above_pairs
    return policy_plan(session, caller, source, now=cli.now, limit=limit)


def _versions(session: "Session", caller: "Caller", tenant: str) -> "list[Version]":
    from cloudside.registry import policies

    return policies.versions(session, caller, tenant)


def _version(versions: "list[Version]", tenant: str, wanted: int | None) -> "Version":
    """That version, or the newest. Raises InputError: there is none."""
    found = next((row for row in versions if wanted in (None, row.version)), None)
    if found is None:
        known = ", ".join(str(row.version) for row in versions) or "-"
        raise InputError("cli.no-policy-version", tenant=tenant, version=wanted or "-", known=known)
    return found


def _source(cli: Cli, file: Path) -> "PolicySource":
    from rules.model import PolicySource

    name, written = read_text(file)
    return PolicySource(tenant=cli.tenant or _tenant_in(written), file_name=name, text=written)


def read_text(file: Path) -> tuple[str, str]:
    """A file's name and text; ``-`` is standard input. Raises InputError: unreadable, or no text."""
    import sys

    from rules.document import TEXT_MAX_CHARS

    try:
        stream = sys.stdin if str(file) == "-" else file.open(encoding="utf-8")
        with stream:
            written = stream.read(TEXT_MAX_CHARS + 1)
    except OSError as error:
        raise InputError("cli.unreadable-file", path=str(file), reason=error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise InputError("cli.not-text", path=str(file), position=error.start + 1) from None
    return file.name if str(file) != "-" else "stdin", written


def _tenant_in(written: str) -> str:
    """The tenant that a file names; empty where it names none: parsing says so with the place."""
    from rules.document import Entries, Scalar, read
    from rules.problems import PolicyError

    try:
        root, _ = read(written, "")
    except PolicyError:
        return ""
    if not isinstance(root, Entries):
        return ""
    named = (node for key, node in root.entries if key.text == "tenant")
    node = next(named, None)
    return node.text if isinstance(node, Scalar) else ""
