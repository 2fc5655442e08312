"""`kyoten logs`: a range of a router's log, handed over in pieces, or its lines as they come."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.moments import moment
from cloudside.cli.output import done, print_json, print_text, printable, show_rows
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.access.log_pulls import Standing
    from cloudside.registry.tables import LogPull

LIST_COLUMNS = ("request", "requested", "requested_by", "units", "since", "until", "follow", "state", "received")
_LISTED = 30


def register(app: typer.Typer) -> None:
    """Put the command into the tree."""
    app.command("logs")(logs)


def logs(
    context: typer.Context,
    site: str,
    lines: Annotated[int | None, typer.Option(help="Only the newest so many; 500 if no range is given.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="MOMENT", help="'2026-12-24 08:00' in UTC, or 2h, 7d ago.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="MOMENT", help="The same; else until now.")] = None,
    unit: Annotated[
        list[str] | None, typer.Option(help="agent, ike, kernel, modem, update or all; repeatable. Else agent and ike.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines as they come.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there; FILE.gz stays packed.")
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="All of it and at full pace, on a mobile line too.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the router.")] = 180.0,
    request: Annotated[str | None, typer.Option(help="Fetch the answer to an earlier request instead.")] = None,
    cancel: Annotated[str | None, typer.Option(metavar="REQUEST", help="Take an earlier request back.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List earlier requests.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Ask a site's router for its log and show it. The router sees the request in its next heartbeat.

    What the line breaks off goes on later, also after a reboot; a request stays for a week.
    """
    cli = cli_of(context)
    if output is not None:
        _require_writable(output)
    if list_:
        _list(cli, site)
    elif cancel is not None:
        _cancel(cli, site, cancel)
    elif request is not None:
        _fetch(cli, site, request, timeout, output)
    else:
        _ask(cli, site, unit or [], since, until, lines, follow=follow, anyway=anyway, timeout=timeout, output=output)


def _ask(
    cli: Cli,
    site: str,
    unit: list[str],
    since: str | None,
    until: str | None,
    lines: int | None,
    *,
    follow: bool,
    anyway: bool,
    timeout: float,
    output: Path | None,
) -> None:
    from cloudside.access import log_pulls as pulls
    from cloudside.access.refusal import check_line
    from cloudside.access.target import site_state
    from cloudside.registry import sites
    from cloudside.registry.log_requests import MAX_LINES

    if follow and until is not None:
        raise InputError("logs.follow-until")
    if lines is not None and not 1 <= lines <= MAX_LINES:
        raise InputError("registry.bad-log-lines", lines=lines, most=MAX_LINES)
    ranged = since is not None or until is not None
    begin = None if since is None else moment(since, now=cli.now)
    end = None if until is None else moment(until, now=cli.now)
    units = pulls.chosen_units(unit)
    with cli.read() as (session, caller):
        found = sites.get(session, caller, site)
        check_line(site_state(session, caller, found))
        can = pulls.can(session, caller, site)
    if not can and not (ranged or unit or follow):
        _ask_old(cli, site, lines or pulls.LINES, timeout, output)
        return
    if can is False:
        raise InputError("logs.agent-too-old", site=site)
    count = lines or (0 if ranged or follow else pulls.LINES)
    wanted = pulls.Wanted(units, begin, end, count, follow=follow, anyway=anyway)
    with cli.write() as (session, caller):
        pull = pulls.ask(session, caller, site, wanted, person=cli.person, now=cli.now)
    if follow:
        _follow(cli, site, pull.id, output)
    else:
        _fetch(cli, site, pull.id, timeout, output)


def _fetch(cli: Cli, site: str, request: str, timeout: float, output: Path | None) -> None:
    from cloudside.access import log_pulls as pulls
    from cloudside.registry import log_pulls as rows
    from cloudside.registry import sites

    with cli.read() as (session, caller):
        sites.get(session, caller, site)
        known = rows.find(session, caller, request)
    if known is None:
        _show(cli, site, request, [_old(cli, request, timeout)], output)
        return
    if known.site_id != site:
        raise InputError("registry.unknown-log-request", request=request[:32])
    if not known.follow:
        pulls.wait(cli.database, cli.caller, request, timeout_s=timeout, progress=_progress(cli))
    with cli.read() as (session, caller):
        if output is not None and output.suffix == ".gz":
            size = _write(output, pulls.packed(session, caller, request))
            done(cli, _document(site, request, output, size), "logs.written", site=site, path=str(output), size=size)
            return
        _show(cli, site, request, pulls.text(session, caller, request), output)


def _follow(cli: Cli, site: str, request: str, output: Path | None) -> None:
    from cloudside.access import log_pulls as pulls
    from cloudside.registry.log_pulls import PullState

    if not cli.as_json:
        sys.stderr.write(f"{text('logs.following', {'site': site, 'request': request})}\n")
    try:
        with _sink(output) as write:
            for part in pulls.follow(cli.database, cli.caller, request, now=lambda: cli.now):
                if write is not None:
                    write(part)
                elif cli.as_json:
                    print_json({"site": site, "request": request, "log": part.decode("utf-8", "replace")})
                else:
                    print_text(printable(part.decode("utf-8", "replace")).rstrip("\n"))
    finally:  # also when somebody has had enough: Ctrl-C
        pulls.stop(cli.database, cli.caller, request, state=PullState.DONE, now=cli.now)


def _ask_old(cli: Cli, site: str, lines: int, timeout: float, output: Path | None) -> None:
    """An agent that knows no ranges, or has never reported: the last lines of two logs, in one piece."""
    import secrets

    from cloudside.access import logs as old

    request = secrets.token_hex(16)
    old.ask(
        cli.database, cli.caller, request_id=request, site_id=site, lines=lines, requested_by=cli.person, now=cli.now
    )
    _show(cli, site, request, [_old(cli, request, timeout)], output)


def _old(cli: Cli, request: str, timeout: float) -> bytes:
    from cloudside.access import logs as old

    return old.wait(cli.database, cli.caller, request_id=request, timeout_s=timeout).encode()


def _show(cli: Cli, site: str, request: str, parts: Iterable[bytes], output: Path | None) -> None:
    if output is not None:
        size = _write(output, parts)
        done(cli, _document(site, request, output, size), "logs.written", site=site, path=str(output), size=size)
    elif cli.as_json:
        print_json({"site": site, "request": request, "log": b"".join(parts).decode("utf-8", "replace")})
    else:
        import codecs

        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        last = "\n"
        for part in parts:
            shown = printable(decode(part))
            sys.stdout.write(shown)
            last = shown[-1:] or last
        sys.stdout.write("" if last == "\n" else "\n")
        sys.stdout.flush()


def _list(cli: Cli, site: str) -> None:
    from cloudside.registry import log_pulls as rows

    with cli.read() as (session, caller):
        found = rows.of_site(session, caller, site, most=_LISTED)
        shown = [_row(pull, rows.received(session, caller, pull.id)) for pull in found]
    show_rows(cli, "log-pulls", shown, LIST_COLUMNS)


def _cancel(cli: Cli, site: str, request: str) -> None:
    from cloudside.access import log_pulls as pulls
    from cloudside.registry import log_pulls as rows
    from cloudside.registry.log_pulls import PullState

    with cli.read() as (session, caller):
        before = rows.get(session, caller, request)
        if before.site_id != site:
            raise InputError("registry.unknown-log-request", request=request[:32])
    pull = pulls.stop(cli.database, cli.caller, request, state=PullState.CANCELLED, now=cli.now)
    key = "logs.taken-back" if before.state == PullState.OPEN.value else "logs.over-before"
    done(cli, _row(pull, None), key, site=site, request=request)


def _row(pull: "LogPull", received: int | None) -> dict[str, Any]:
    return {
        "request": pull.id,
        "requested": pull.requested_at,
        "requested_by": pull.requested_by,
        "units": list(pull.units),
        "since": pull.since_at,
        "until": pull.until_at,
        "follow": pull.follow,
        "state": pull.state,
        "received": received,
    }


def _document(site: str, request: str, output: Path, size: int) -> dict[str, Any]:
    return {"site": site, "request": request, "output": str(output), "size": size}


def _progress(cli: Cli) -> "Callable[[Standing], None]":
    """What is there, on a terminal only, in one line that is written over."""
    if cli.as_json or not sys.stderr.isatty():
        return lambda _: None
    last = ""

    def show(standing: "Standing") -> None:
        nonlocal last
        params = {"received": standing.received, "total": standing.total}
        line = standing.waits or (text("logs.progress", params) if standing.total else text("logs.asked"))
        if line != last:
            last = line
            sys.stderr.write(f"{printable(line)}\n")

    return show


def _require_writable(path: Path) -> None:
    """Told before the router is asked. Raises InputError."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError("logs.output-unwritable", path=str(path), reason=text("logs.no-such-directory"))


def _write(path: Path, parts: Iterable[bytes]) -> int:
    """Write all of it or nothing; its size. Raises InputError."""
    temporary = path.with_name(f".{path.name}.part")
    size = 0
    try:
        with temporary.open("wb") as stream:
            for part in parts:
                size += stream.write(part)
        temporary.rename(path)
    except OSError as error:
        raise InputError("logs.output-unwritable", path=str(path), reason=error.strerror or "") from None
    finally:
        temporary.unlink(missing_ok=True)
    return size


class _sink:
    """A file that grows with a followed log; without one: nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __enter__(self) -> Callable[[bytes], None] | None:
        if self._path is None:
            return None
        try:
            self._stream = self._path.open("ab")
        except OSError as error:
            raise InputError("logs.output-unwritable", path=str(self._path), reason=error.strerror or "") from None

        def write(part: bytes) -> None:
            self._stream.write(part)
            self._stream.flush()

        return write

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._stream.close()
