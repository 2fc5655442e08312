"""`kyoten policy` and `kyoten why`: who may reach whom, checked before it counts and explained afterwards."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.output import done, print_json, print_table, print_text, show_rows
from cloudside.errors import InputError, InputErrors, combined
from cloudside.messages import text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

    from cloudside.registry.callers import Caller
    from rules.compile import RuleSet
    from rules.diff import Difference
    from rules.model import Inventory, Policy, PolicySource
    from rules.problems import Problem
    from rules.reach import Reach

app = typer.Typer(no_args_is_help=True, help="Who may reach whom.")

PolicyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A tenant's policy; - reads standard input.")]

#: Exit status of `kyoten why` when the answer is no, so that a program can ask without reading.
BLOCKED = 1


@dataclass(frozen=True, slots=True)
class _Held:
    """A policy held against the registry of one moment."""

    source: "PolicySource"
    policy: "Policy"
    rule_set: "RuleSet"
    before: "RuleSet | None"
    difference: "Difference"


def register(app: typer.Typer) -> None:
    """Put the question into the tree; the group stands under ``policy``."""
    app.command("why")(why)


@app.command()
def check(context: typer.Context, file: PolicyFile, _json: JsonFlag = False) -> None:
    """Say everything that is wrong with a policy file: place, reason, remedy. Changes nothing."""
    cli = cli_of(context)
    source = _source(cli, file)
    with cli.read() as (session, caller):
        held = _hold(session, caller, source, cli.now)
    document = {"tenant": source.tenant, "statements": len(held.policy.statements), "problems": []}
    done(cli, document, "cli.policy-good", file=source.file_name, statements=len(held.policy.statements))


@app.command()
def plan(context: typer.Context, file: PolicyFile, _json: JsonFlag = False) -> None:
    """Say what a policy file would open and close, as behaviour. Changes nothing."""
    cli = cli_of(context)
    source = _source(cli, file)
    with cli.read() as (session, caller):
        held = _hold(session, caller, source, cli.now)
    _show_difference(cli, held, applied=None)


@app.command()
def apply(context: typer.Context, file: PolicyFile, _json: JsonFlag = False) -> None:
    """Put a policy file in force, unless anything is wrong with it."""
    from cloudside.registry import policies

    cli = cli_of(context)
    source = _source(cli, file)
    with cli.read() as (session, caller):
        _hold(session, caller, source, cli.now)  # a mistake is told without keeping other writers waiting
    with cli.write("gateway") as (session, caller):
        held = _hold(session, caller, source, cli.now)  # what counts: nothing can change between this and the commit
        kept = policies.add_version(
            session,
            caller,
            tenant_id=source.tenant,
            text=source.text,
            file_name=source.file_name,
            author=cli.person,
            now=cli.now,
        )
    _show_difference(cli, held, applied=kept.version)


@app.command()
def show(
    context: typer.Context,
    tenant: str,
    version: Annotated[int | None, typer.Option(help="This version; else the one in force.")] = None,
    _json: JsonFlag = False,
) -> None:
    """A tenant's policy as it was written."""
    from cloudside.registry import policies

    cli = cli_of(context)
    with cli.read() as (session, caller):
        versions = policies.versions(session, caller, tenant)
    found = next((row for row in versions if version in (None, row.version)), None)
    if found is None:
        known = ", ".join(str(row.version) for row in versions) or "-"
        raise InputError("cli.no-policy-version", tenant=tenant, version=version or "-", known=known)
    if cli.as_json:
        print_json({"tenant": tenant, "version": found.version, "file": found.file_name, "text": found.text})
    else:
        print_text(found.text.rstrip("\n"))


@app.command()
def history(context: typer.Context, tenant: str, _json: JsonFlag = False) -> None:
    """All versions of a tenant's policy, newest first; the first is in force."""
    from cloudside.registry import policies

    cli = cli_of(context)
    with cli.read() as (session, caller):
        rows = [
            {"version": row.version, "applied": row.applied_at, "author": row.author, "file": row.file_name}
            for row in policies.versions(session, caller, tenant)
        ]
    show_rows(cli, "policies", rows, ("version", "applied", "author", "file"))


def why(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Site, SITE/DEVICE, server or address.")],
    destination: Annotated[str, typer.Argument(help="Site, SITE/DEVICE, server or address.")],
    service: Annotated[str, typer.Argument(help="Such as tcp/443, modbus-tcp or ping.")],
    _json: JsonFlag = False,
) -> None:
    """Say whether A may reach B with a service, and which statements decide it. Exit status 1: it may not."""
    from cloudside.registry import inventory, sites
    from rules.compile import compile_policy
    from rules.explain import explain
    from rules.parse import parse_stored
    from rules.problems import PolicyError

    cli = cli_of(context)
    with cli.read() as (session, caller):
        known = inventory.load(session)
        sources = inventory.policy_sources(session)
        if caller.tenant is not None:
            known = _seen_by(known, caller.tenant)
            sources = tuple(one for one in sources if one.tenant == caller.tenant)
        for end in (source, destination):
            gone = end.split("/")[0]
            if gone not in {site.name for site in known.sites} and any(
                site.id == gone for site in sites.every(session, caller)
            ):
                raise InputError("cli.site-out-of-service", site=gone)
    try:
        policy, _ = parse_stored(sources, known)
        answer = explain(policy, compile_policy(policy, known, at=cli.now), known, source, destination, service)
    except PolicyError as error:
        # The question is wrong, not a file: only the end or the service that does not exist is named.
        raise combined([InputError(one.kind, **one.params) for one in error.problems]) from None
    statements = [
        {"statement": str(one.id), "place": str(one.place), "reason": one.reason, "owner": one.owner}
        for one in answer.statements
    ]
    reasons = [
        {"key": one.key, "params": dict(one.params), "text": text(one.key, one.params)} for one in answer.reasons
    ]
    if cli.as_json:
        print_json({"allowed": answer.allowed, "statements": statements, "reasons": reasons})
    else:
        params = {"source": source, "destination": destination, "service": service}
        print_text(text("cli.why-allowed" if answer.allowed else "cli.why-blocked", params))
        for reason in reasons:
            print_text(f"  {reason['text']}")
        if statements:
            print_table("statements", statements, ("statement", "place", "reason", "owner"))
    if not answer.allowed:
        raise typer.Exit(BLOCKED)


def _source(cli: Cli, file: Path) -> "PolicySource":
    import sys

    from rules.document import TEXT_MAX_CHARS
    from rules.model import PolicySource

    try:
        stream = sys.stdin if str(file) == "-" else file.open(encoding="utf-8")
        with stream:
            written = stream.read(TEXT_MAX_CHARS + 1)
    except OSError as error:
        raise InputError("cli.unreadable-file", path=str(file), reason=error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise InputError("cli.not-text", path=str(file), position=error.start + 1) from None
    tenant = cli.tenant or _tenant_in(written)
    return PolicySource(tenant=tenant, file_name=file.name if str(file) != "-" else "stdin", text=written)


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


def _hold(session: "Session", caller: "Caller", source: "PolicySource", now: "datetime") -> _Held:
    """Raises InputErrors: every problem of the file; InputError: another tenant's."""
    from cloudside.registry import inventory, policies, tenants
    from rules.compile import compile_policy
    from rules.diff import diff
    from rules.model import PolicySource
    from rules.parse import parse, parse_stored
    from rules.problems import PolicyError

    known = inventory.load(session)
    try:
        policy = parse([source], known)
    except PolicyError as error:
        raise InputErrors([_placed(one) for one in error.problems]) from None
    tenants.get(session, caller, source.tenant)
    rule_set = compile_policy(policy, known, at=now)
    kept = policies.in_force(session, caller, source.tenant)
    before = None
    if kept is not None:
        stored, _ = parse_stored([PolicySource(kept.tenant_id, kept.file_name, kept.text)], known)
        before = compile_policy(stored, known, at=now)
    return _Held(source, policy, rule_set, before, diff(before, rule_set))


def _seen_by(known: "Inventory", tenant: str) -> "Inventory":
    from rules.model import Inventory

    theirs = tuple(site for site in known.sites if site.tenant == tenant)
    names = {site.name for site in theirs}
    return Inventory(
        tenants={name: block for name, block in known.tenants.items() if name == tenant},
        sites=theirs,
        devices=tuple(device for device in known.devices if device.site in names),
        servers=tuple(server for server in known.servers if server.tenant in (None, tenant)),
    )


def _placed(problem: "Problem") -> InputError:
    # A problem without a place lies in the registry.
    key = "cli.policy-problem" if problem.place else "cli.inventory-problem"
    words = text(problem.kind, problem.params)
    place: dict[str, str | int | float] = {"file": problem.file, "line": problem.line, "column": problem.column}
    return InputError(key, place=problem.place, problem=words, kind=problem.kind, **place)


def _show_difference(cli: Cli, held: _Held, *, applied: int | None) -> None:
    opened, closed = _rows(held.difference.opened), _rows(held.difference.closed)
    if cli.as_json:
        print_json({"tenant": held.source.tenant, "version": applied, "opened": opened, "closed": closed})
        return
    tense = "" if applied is None else "now-"
    print_table("opened", opened, ("source", "destination", "service"), title=text(f"cli.title-{tense}opened"))
    print_table("closed", closed, ("source", "destination", "service"), title=text(f"cli.title-{tense}closed"))
    if applied is not None:
        print_text(text("cli.policy-applied", {"tenant": held.source.tenant, "version": applied}))


def _rows(reaches: "Sequence[Reach]") -> list[dict[str, Any]]:
    from rules.services import shown

    return [
        {
            "source": one.source,
            "destination": one.destination,
            "service": shown(one.service),
        }
        | ({"apart": [" → ".join(pair) for pair in one.apart]} if one.apart else {})
        for one in reaches
    ]
