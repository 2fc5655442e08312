"""`kyoten audit`: who changed what, and whether the record of it is whole."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import JsonFlag, cli_of, operators_cli_of
from cloudside.cli.output import done, print_json, print_text, show_rows
from cloudside.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from cloudside.registry.chain import Head
    from cloudside.registry.tables import AuditEntry

app = typer.Typer(no_args_is_help=True, help="Who changed what, in a log that nobody can change afterwards.")

COLUMNS = ("number", "at", "actor", "action", "kind", "subject", "changes")
_AGO = re.compile(r"(\d{1,5})([dhm])")
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}
#: Characters of one value in the table; JSON has all of it.
_SHOWN_CHARS = 60


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option("--tenant", help="What concerns this tenant.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="What was changed: tokyo-1; its devices are found as well.")
    ] = None,
    actor: Annotated[str | None, typer.Option("--actor", help="Who changed it: a person, or web, worker, ...")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="MOMENT", help="'2026-12-24 08:00' in UTC, or 2h, 7d ago.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")] = 100,
    _json: JsonFlag = False,
) -> None:
    """Changes of what is wanted, newest first."""
    from cloudside.registry import audit

    cli = cli_of(context)
    begin = None if since is None else _moment(since, cli.now)
    with cli.read() as (session, caller):
        # No check that the tenant exists: of one that is gone the entries are still here.
        found = audit.latest(session, caller, most=most, tenant_id=tenant, subject=subject, actor=actor, since=begin)
    rows = [row_of(entry) for entry in found]
    if not cli.as_json:
        rows = [{**row, "changes": _changes(row["before"], row["after"])} for row in rows]
    show_rows(cli, "audit-entries", rows, COLUMNS)


@app.command()
def head(context: typer.Context, _json: JsonFlag = False) -> None:
    """NUMBER:HASH of the newest entry. Keep it elsewhere: `verify` then notices a log that was cut off or made anew."""
    from cloudside.registry import audit

    cli = operators_cli_of(context)
    with cli.read() as (session, caller):
        newest = audit.head(session, caller)
    if cli.as_json:
        print_json({"number": newest.number, "hash": newest.hash})
    else:
        print_text(str(newest))


@app.command()
def verify(
    context: typer.Context,
    head: Annotated[
        list[str] | None, typer.Option("--head", metavar="NUMBER:HASH", help="What `head` once said; repeatable.")
    ] = None,
    witness: Annotated[
        Path | None, typer.Option("--witness", metavar="FILE", help="A file with such lines, kept elsewhere.")
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Compute the whole chain again. Exit status 4: an entry was changed, removed, put in or reordered."""
    from cloudside.registry import audit, chain

    cli = operators_cli_of(context)
    witnesses = [_head(text) for text in (*(head or ()), *_lines(witness))]
    with cli.read() as (session, caller):
        verdict = chain.verify(audit.entries(session, caller), witnesses)
    newest = verdict.head
    if verdict.key is not None:
        raise ConfigurationError(verdict.key, number=verdict.number, good=newest.number)
    document = {"entries": newest.number, "head": str(newest), "witnesses": len(witnesses)}
    done(cli, document, "cli.audit-whole", entries=newest.number, head=str(newest), witnesses=len(witnesses))


def row_of(entry: "AuditEntry") -> dict[str, Any]:
    """An entry as JSON has it."""
    return {
        "number": entry.number,
        "at": entry.at,
        "actor": entry.actor,
        "tenant": entry.tenant_id,
        "action": entry.action,
        "kind": entry.kind,
        "subject": entry.subject,
        "before": entry.before,
        "after": entry.after,
        "previous": entry.previous,
        "hash": entry.hash,
    }


def _changes(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    """One line for each column: what it was and what it is. What was and is nothing is left out."""
    if not all(isinstance(value, dict | None) for value in (before, after)):  # tampered with: still to be looked at
        return _short({"before": before, "after": after})
    lines = []
    for name in sorted({**(before or {}), **(after or {})}):
        old, new = (before or {}).get(name), (after or {}).get(name)
        if old is None and new is None:
            continue
        shown = [_short(value) for value, there in ((old, before), (new, after)) if there is not None]
        lines.append(f"{name}: {' -> '.join(shown)}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    shown = "-" if value is None else str(value)
    return shown if len(shown) <= _SHOWN_CHARS else f"{shown[: _SHOWN_CHARS - 1]}\u2026"


def _moment(given: str, now: datetime) -> datetime:
    if ago := _AGO.fullmatch(given.strip()):
        return now - int(ago[1]) * _UNITS[ago[2]]
    try:
        found = datetime.fromisoformat(given.strip())
    except ValueError:
        raise InputError("cli.bad-moment-or-ago", text=given[:40]) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _head(text: str) -> "Head":
    from cloudside.registry.chain import read_head

    found = read_head(text)
    if found is None:
        raise InputError("cli.audit-bad-head", text=text[:90])
    return found


def _lines(witness: Path | None) -> list[str]:
    if witness is None:
        return []
    try:
        lines = [line for line in witness.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InputError("cli.audit-witness-unreadable", path=str(witness), reason=str(error.strerror)) from None
    except UnicodeDecodeError:
        raise InputError("cli.audit-witness-unreadable", path=str(witness), reason="no text") from None
    if not lines:
        raise InputError("cli.audit-witness-unreadable", path=str(witness), reason="empty")
    return lines
