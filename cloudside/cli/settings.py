"""`kyoten settings`: a site's settings as versions: drafted, compared, applied, thrown away, gone back to."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli import sites
from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.output import done, print_json, print_table, print_text, show_rows
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cloudside.fleet.settings_diff import Difference
    from cloudside.registry.tables import Settings

app = typer.Typer(no_args_is_help=True, help="Routers' settings: drafts, differences, versions, changes to many sites.")

DIFF_COLUMNS = ("setting", "before", "after")
HISTORY_COLUMNS = ("version", "created", "author", "state", "changed", "problem")
DRAFT_COLUMNS = ("site", "author", "updated", "settings")


@app.command()
def draft(
    context: typer.Context,
    site: str,
    assignments: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="KEY= takes one back to its default.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Draft what that earlier version had.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Prepare settings for a site; its router hears nothing of them. Without KEY=VALUE the draft is shown."""
    from cloudside.fleet import settings_change
    from cloudside.registry import settings, settings_drafts

    cli = cli_of(context)
    changes = settings_change.parse(assignments or [], read_secret=sites.read_secret)
    if not changes and version is None:
        _show_draft(cli, site)
        return
    with cli.write() as (session, caller):
        if version is not None:
            wanted, then = settings.wanted(session, caller, site), settings.get(session, caller, site, version).values
            earlier = {key: then.get(key) for key in wanted.keys() | then.keys() if wanted.get(key) != then.get(key)}
            changes = {**earlier, **changes}
            if not changes:
                raise InputError("settings.version-is-so", site=site, version=version)
        kept = settings_drafts.add(session, caller, site_id=site, changes=changes, author=cli.person, now=cli.now)
        document = {"site": site, "changes": settings.shown(kept.changes), "author": kept.author}
    done(cli, document, "settings.drafted", site=site, count=len(kept.changes))


@app.command()
def diff(
    context: typer.Context,
    site: str,
    versions: Annotated[
        list[int] | None, typer.Argument(metavar="[VERSION [VERSION]]", help="Two versions, or one and what is wanted.")
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """What a site's draft changes; or what differs between versions (0: the router's own defaults)."""
    from cloudside.fleet.settings_diff import differences
    from cloudside.registry import settings, settings_drafts

    cli = cli_of(context)
    chosen = list(versions or [])
    if len(chosen) > 2:
        raise InputError("settings.too-many-versions")
    with cli.read() as (session, caller):
        wanted = settings.wanted(session, caller, site)

        def values(version: int) -> "Mapping[str, Any]":
            return {} if version == 0 else settings.get(session, caller, site, version).values

        if chosen:
            before, after = values(chosen[0]), values(chosen[1]) if len(chosen) == 2 else wanted
        else:
            before, after = wanted, settings.changed(wanted, settings_drafts.get(session, caller, site).changes)
    show_differences(cli, site, differences(before, after))


@app.command()
def apply(
    context: typer.Context,
    site: str,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also where somebody else changed the same settings meanwhile.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for what becomes of it on the router.")] = True,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Apply a site's draft. The router keeps it if it still reaches the cloud through its tunnel, else it goes back."""
    from cloudside.access.refusal import check_line
    from cloudside.access.target import site_state
    from cloudside.registry import settings_drafts
    from cloudside.registry import sites as registered

    cli = cli_of(context)
    with cli.write() as (session, caller):
        found = registered.get(session, caller, site)
        check_line(site_state(session, caller, found))
        stated = settings_drafts.apply(
            session, caller, site_id=site, author=cli.person, overwrite=overwrite, now=cli.now
        )
    if stated is None:
        done(cli, {"site": site, "version": None}, "settings.nothing-to-change", site=site)
    else:
        sites.wait_for(cli, site, stated, wait=wait, timeout=timeout)


@app.command()
def discard(context: typer.Context, site: str, _json: JsonFlag = False) -> None:
    """Throw a site's draft away."""
    from cloudside.registry import settings, settings_drafts

    cli = cli_of(context)
    with cli.write() as (session, caller):
        gone = settings_drafts.discard(session, caller, site_id=site)
        document = {"site": site, "changes": settings.shown(gone.changes)}
    done(cli, document, "settings.discarded", site=site)


@app.command()
def history(
    context: typer.Context,
    site: str,
    most: Annotated[int, typer.Option(min=1, max=1000, help="At most this many, the newest.")] = 20,
    _json: JsonFlag = False,
) -> None:
    """Every version of a site's settings: who, when, what it changed, what became of it."""
    from cloudside.registry import settings

    cli = cli_of(context)
    with cli.read() as (session, caller):
        found = settings.versions(session, caller, site)
    rows = _history(found)[:most]
    if cli.as_json:
        print_json({"site": site, "versions": rows})
        return
    shown = [{**row, "changed": [_in_words(one) for one in row["changed"]], "problem": row["text"]} for row in rows]
    show_rows(cli, "settings-versions", shown, HISTORY_COLUMNS)


def _history(found: "Sequence[Settings]") -> list[dict[str, Any]]:
    """Versions, newest first, each with what it changed of the one that was in force before it."""
    from cloudside.fleet.settings_diff import differences
    from cloudside.registry.settings import State, shown

    rows: list[dict[str, Any]] = []
    before: Mapping[str, Any] = {}
    for row in reversed(found):
        changed = [
            {"setting": one.key, "before": one.before, "after": one.after} for one in differences(before, row.values)
        ]
        rows.append({
            "version": row.version, "created": row.created_at, "author": row.author, "state": row.state,
            "values": shown(row.values), "changed": changed, "problem": row.problem,
            "text": None if row.problem is None else text(row.problem["key"], row.problem["params"]),
        })  # fmt: skip
        if row.state != State.REVERTED.value:
            before = row.values
    return rows[::-1]


def show_differences(cli: Cli, site: str, found: "Sequence[Difference]") -> None:
    """Settings before and after; a dash is the router's own default."""
    rows = [{"setting": one.key, "before": one.before, "after": one.after} for one in found]
    if cli.as_json:
        print_json({"site": site, "differences": rows})
    elif not rows:
        print_text(text("settings.no-difference", {"site": site}))
    else:
        print_table("differences", rows, DIFF_COLUMNS)


def _show_draft(cli: Cli, site: str) -> None:
    from cloudside.registry import settings, settings_drafts

    with cli.read() as (session, caller):
        kept = settings_drafts.get(session, caller, site)
        moved = settings_drafts.moved(kept, settings.wanted(session, caller, site))
    changes = settings.shown(kept.changes)
    if cli.as_json:
        document = {"site": site, "changes": changes, "author": kept.author, "updated": kept.updated_at}
        print_json({**document, "moved": list(moved)})
        return
    words = [_in_words({"setting": key, "before": None, "after": value}) for key, value in sorted(changes.items())]
    print_table("drafts", [
        {"site": site, "author": kept.author, "updated": kept.updated_at, "settings": words}
    ], DRAFT_COLUMNS)  # fmt: skip
    if moved:
        sys.stderr.write(f"{text('settings.moved-meanwhile', {'names': ', '.join(moved)})}\n")


def _in_words(one: "Mapping[str, Any]") -> str:
    from cloudside.cli.output import in_words

    return f"{one['setting']}={'' if one['after'] is None else in_words(one['after'])}"
