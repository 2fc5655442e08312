"""`kyoten settings change`: one change of settings to many sites, some at a time, stopped when too many undo it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli import sites as site_commands
from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.moments import duration
from cloudside.cli.output import confirm, done, print_json, print_table, print_text, show_rows
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from cloudside.registry.callers import Caller
    from cloudside.registry.tables import SettingsChange, Site

app = typer.Typer(no_args_is_help=True, help="One change of settings to many sites.")

LIST_COLUMNS = ("change", "created", "author", "settings", "state", "sites", "applied", "reverted", "reason")
SITE_COLUMNS = ("site", "state", "version", "stated", "problem")
PLAN_COLUMNS = ("site", "now", "line", "changed")

_LISTED = 50
#: What there is room for in a sentence.
_NAMED = 5


@app.command()
def start(
    context: typer.Context,
    assignments: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="KEY= takes one back.")],
    sites: Annotated[list[str] | None, typer.Option(help="These sites, separated by commas; repeatable.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Sites with all these labels.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All sites.")] = False,
    stagger: Annotated[int, typer.Option(min=1, max=10_000, help="So many sites at once.")] = 10,
    every: Annotated[int, typer.Option(min=0, max=86_400, help="Seconds between two steps, at least.")] = 60,
    stop_after_failures: Annotated[
        int, typer.Option(min=1, help="Stop when so many sites undid it or fell silent with it.")
    ] = 3,
    until: Annotated[str, typer.Option(metavar="TIME", help="How long sites that are away may take.")] = "14d",
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what each site would get, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Begin a change. `kyoten worker` takes the steps; sites that are away are told when they report again."""
    from cloudside.fleet import settings_change
    from cloudside.registry import settings, settings_changes

    cli = cli_of(context)
    changes = settings_change.parse(assignments, read_secret=site_commands.read_secret)
    if not changes:
        raise InputError("settings.nothing-given")
    lasting = duration(until)
    with cli.read() as (session, caller):
        chosen = _chosen(session, caller, sites or [], label or [], all_sites=all_)
        rows = _plan(session, caller, chosen, changes, cli)
    differing = [row["site"] for row in rows if row["changed"]]
    if dry_run:
        _show_plan(cli, rows, stagger, every)
        return
    if not differing:
        raise InputError("settings.no-sites")
    if not yes and not cli.as_json:
        confirm(cli, "settings.confirm-change", count=str(len(differing)), names=_some(differing))
    with cli.write() as (session, caller):
        change = settings_changes.add(
            session,
            caller,
            site_ids=differing,
            changes=changes,
            reason=reason,
            author=cli.person,
            stagger=stagger,
            every_s=every,
            stop_after=stop_after_failures,
            until=cli.now + lasting,
            now=cli.now,
        )
    document = {
        "change": change.id,
        "sites": differing,
        "unchanged": [row["site"] for row in rows if not row["changed"]],
        "settings": settings.shown(change.changes),
        "state": change.state,
    }
    done(cli, document, "settings.change-begun", change=change.id, count=len(differing))


@app.command("list")
def list_(context: typer.Context, _json: JsonFlag = False) -> None:
    """Changes, the newest first."""
    from cloudside.registry import settings_changes

    cli = cli_of(context)
    with cli.read() as (session, caller):
        rows = [_row(session, caller, one) for one in settings_changes.every(session, caller, most=_LISTED)]
    show_rows(cli, "settings-changes", rows, LIST_COLUMNS)


@app.command()
def status(context: typer.Context, change: int, _json: JsonFlag = False) -> None:
    """How far a change is, site by site."""
    from cloudside.registry import settings_changes

    cli = cli_of(context)
    with cli.read() as (session, caller):
        found = settings_changes.get(session, caller, change)
        row = _row(session, caller, found)
        rows = [
            {
                "site": one.site_id,
                "state": one.state,
                "version": one.version,
                "stated": one.stated_at,
                "ended": one.ended_at,
                "problem": one.problem,
                "text": None if one.problem is None else text(one.problem["key"], one.problem["params"]),
            }
            for one in settings_changes.site_rows(session, caller, change)
        ]
    if cli.as_json:
        print_json({**row, "rows": rows})
        return
    print_table("settings-changes", [row], LIST_COLUMNS)
    if found.problem is not None:
        print_text(text(found.problem["key"], found.problem["params"]))
    words = [{**one, "state": text(f"settings.site-{one['state']}"), "problem": one["text"]} for one in rows]
    print_table("change-sites", words, SITE_COLUMNS)


@app.command()
def pause(context: typer.Context, change: int, _json: JsonFlag = False) -> None:
    """Tell no further sites. Those that were told go on."""
    _move(context, change, "paused", "settings.change-paused")


@app.command()
def resume(
    context: typer.Context,
    change: int,
    stop_after_failures: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many more; else after as many as were left.")
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Go on with a change that was paused, or that stopped because too many sites undid it."""
    from cloudside.registry import settings_changes

    cli = cli_of(context)
    with cli.write() as (session, caller):
        found = settings_changes.resume(
            session, caller, change_id=change, more_failures=stop_after_failures, now=cli.now
        )
        row = _row(session, caller, found)
    done(cli, row, "settings.change-resumed", change=change)


@app.command()
def cancel(
    context: typer.Context,
    change: int,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    _json: JsonFlag = False,
) -> None:
    """End a change. What sites have taken up stays; those that have not said anything yet are told to leave it."""
    from cloudside.fleet import settings_changes as steps
    from cloudside.registry import settings_changes
    from cloudside.registry.settings_changes import ChangeState

    cli = cli_of(context)
    with cli.read() as (session, caller):
        settings_changes.get(session, caller, change)
    if not yes and not cli.as_json:
        confirm(cli, "settings.confirm-cancel", change=str(change))
    with cli.write() as (session, caller):
        found = settings_changes.move(session, caller, change_id=change, state=ChangeState.CANCELLED, now=cli.now)
        steps.withdraw(session, found.id, now=cli.now)
        row = _row(session, caller, found)
    done(cli, row, "settings.change-cancelled", change=change)


def _move(context: typer.Context, change: int, state: str, key: str) -> None:
    from cloudside.registry import settings_changes
    from cloudside.registry.settings_changes import ChangeState

    cli = cli_of(context)
    with cli.write() as (session, caller):
        found = settings_changes.move(session, caller, change_id=change, state=ChangeState(state), now=cli.now)
        row = _row(session, caller, found)
    done(cli, row, key, change=change)


def _chosen(
    session: "Session", caller: "Caller", names: Sequence[str], labels: Sequence[str], *, all_sites: bool
) -> "list[Site]":
    """The sites that are meant. Raises InputError: none are named, or in two ways, or one is unknown."""
    from cloudside.registry import labels as labelled
    from cloudside.registry import sites

    if sum((bool(names), bool(labels), all_sites)) != 1:
        raise InputError("settings.which-sites")
    if names:
        wanted = dict.fromkeys(name.strip() for word in names for name in word.split(",") if name.strip())
        return [sites.get(session, caller, name) for name in wanted]
    in_service = [site for site in sites.every(session, caller) if site.revoked_at is None and site.phase != "retired"]
    if all_sites:
        return in_service
    wanted_labels = labelled.parse(list(labels))
    every = labelled.every(session, caller)
    return [
        site
        for site in in_service
        if all(every.get(site.id, {}).get(key) == value for key, value in wanted_labels.items())
    ]


def _plan(
    session: "Session", caller: "Caller", chosen: "Sequence[Site]", changes: Mapping[str, Any], cli: Cli
) -> list[dict[str, Any]]:
    """What each site would get, and whether it could be told now."""
    from cloudside.access.refusal import MOBILE_PHASES
    from cloudside.fleet.settings_changes import AWAY_AFTER_INTERVALS
    from cloudside.fleet.settings_diff import differences
    from cloudside.registry import reports, settings

    beats = reports.heartbeats(session, caller)
    rows = []
    for site in chosen:
        before = settings.wanted(session, caller, site.id)
        beat = beats.get(site.id)
        line = None if beat is None else str(beat.report.get("uplink", {}).get("kind", "none"))
        interval_s = cli.config.web.heartbeat_mobile_s if line == "mobile" else cli.config.web.heartbeat_wired_s
        away = beat is None or cli.now - beat.received_at > timedelta(seconds=AWAY_AFTER_INTERVALS * interval_s)
        held = line == "mobile" and site.phase not in MOBILE_PHASES
        found = differences(before, settings.changed(before, changes))
        rows.append({
            "site": site.id,
            "now": "unchanged" if not found else "later-away" if away else "later-mobile" if held else "now",
            "line": line,
            "changed": [{"setting": one.key, "before": one.before, "after": one.after} for one in found],
        })  # fmt: skip
    return rows


def _show_plan(cli: Cli, rows: list[dict[str, Any]], stagger: int, every: int) -> None:
    from cloudside.cli.output import in_words

    ready = [row for row in rows if row["now"] == "now"]
    steps = -(-len(ready) // stagger)
    least_s = max(0, steps - 1) * every
    if cli.as_json:
        print_json({"sites": rows, "steps": steps, "least_s": least_s, "ready": len(ready)})
        return
    words = [
        {
            **row,
            "now": text(f"settings.plan-{row['now']}"),
            "changed": [
                f"{one['setting']}: {in_words(one['before'])} -> {in_words(one['after'])}" for one in row["changed"]
            ],
        }
        for row in rows
    ]
    print_table("change-sites", words, PLAN_COLUMNS)
    params = {"ready": len(ready), "count": len(rows), "steps": steps, "seconds": least_s}
    print_text(text("settings.plan", params))


def _row(session: "Session", caller: "Caller", one: "SettingsChange") -> dict[str, Any]:
    from cloudside.registry import settings, settings_changes

    counts = settings_changes.counts(session, caller, one.id)
    return {
        "change": one.id,
        "created": one.created_at,
        "author": one.author,
        "reason": one.reason,
        "settings": settings.shown(one.changes),
        "state": one.state,
        "problem": one.problem,
        "stagger": one.stagger,
        "every_s": one.every_s,
        "stop_after_failures": one.stop_after,
        "until": one.until,
        "sites": sum(counts.values()),
        **{str(state): count for state, count in counts.items()},
    }


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown}, ..."
