"""`kyoten site`: sites, their routers' enrolment, phase and settings."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.output import confirm, done, show_rows
from cloudside.cli.tenants import reserved
from cloudside.errors import InputError, KyotenError
from cloudside.messages import text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudside.registry.tables import Settings, Site

app = typer.Typer(no_args_is_help=True, help="Sites: one router and the LAN behind it each.")

#: Exit status when a router undid the settings it was given: it was refused, by the router.
UNDONE = 3


@app.command()
def add(
    context: typer.Context,
    site: Annotated[str, typer.Argument(help="Name, unique in the whole service.")],
    tenant: Annotated[str | None, typer.Option(help="Whose site it is.")] = None,
    lan: Annotated[str | None, typer.Option(help="What the LAN really uses; else the overlay prefix itself.")] = None,
    overlay: Annotated[str | None, typer.Option(help="Prefix in the tenant's block; else the first free one.")] = None,
    phase: Annotated[
        str, typer.Option(help="planned, construction, commissioning, operation or retired.")
    ] = "operation",
    timezone: Annotated[str, typer.Option(help="Such as Asia/Tokyo.")] = "UTC",
    mail_hourly_limit: Annotated[int | None, typer.Option(help="Mails an hour before staff are told.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Take a site in."""
    from cloudside.registry import sites

    cli = cli_of(context)
    owner = tenant or cli.tenant
    if owner is None:
        raise InputError("cli.tenant-wanted", site=site[:63])
    with cli.write("gateway", "relay") as (session, caller):
        added = sites.add(
            session,
            caller,
            site_id=site,
            tenant_id=owner,
            now=cli.now,
            lan=lan,
            overlay=overlay,
            phase=phase,
            timezone=timezone,
            mail_hourly_limit=mail_hourly_limit,
            reserved=reserved(cli),
        )
    done(cli, row_of(added), "cli.site-added", site=added.id, overlay=str(added.overlay), lan=str(added.lan))


@app.command("list")
def list_(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    _json: JsonFlag = False,
) -> None:
    """All sites as stated; how they are now is in `kyoten status`."""
    from cloudside.registry import sites, tenants

    cli = cli_of(context)
    with cli.read() as (session, caller):
        if tenant is not None:
            tenants.get(session, caller, tenant)
        rows = [row_of(site) for site in sites.every(session, caller, tenant_id=tenant)]
    show_rows(cli, "sites", rows, ("site", "tenant", "overlay", "lan", "phase", "timezone", "revoked"))


@app.command("set")
def set_(
    context: typer.Context,
    site: str,
    assignments: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Router settings; KEY= takes one back.")
    ] = None,
    timezone: Annotated[str | None, typer.Option(help="Such as Asia/Tokyo.")] = None,
    mail_hourly_limit: Annotated[int | None, typer.Option(help="Mails an hour before staff are told.")] = None,
    draft: Annotated[bool, typer.Option("--draft", help="Only prepare the settings; see 'kyoten settings'.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and do nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for what becomes of it on the router.")] = True,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Change a site's properties or its router's settings. A router undoes settings that cut it off from the cloud."""
    from cloudside.access.refusal import check_line
    from cloudside.access.target import site_state
    from cloudside.fleet import settings_change
    from cloudside.fleet.settings_keys import SETTING_KEYS
    from cloudside.registry import settings, sites

    cli = cli_of(context)
    changes = settings_change.parse(assignments or [], read_secret=read_secret)
    if not changes and timezone is None and mail_hourly_limit is None:
        raise InputError("cli.nothing-to-set", known=", ".join(SETTING_KEYS))
    if draft or dry_run:
        if timezone is not None or mail_hourly_limit is not None or draft is dry_run:
            raise InputError("settings.only-settings")
        _prepare(cli, site, changes, draft=draft)
        return
    stated: Settings | None = None
    with cli.write("relay") as (session, caller):
        found = sites.change(session, caller, site_id=site, timezone=timezone, mail_hourly_limit=mail_hourly_limit)
        if changes:
            check_line(site_state(session, caller, found))
            stated = settings.change(session, caller, site_id=found.id, changes=changes, author=cli.person, now=cli.now)
    if stated is None:
        done(cli, row_of(found), "cli.site-changed", site=found.id)
        return
    wait_for(cli, found.id, stated, wait=wait, timeout=timeout)


@app.command()
def phase(context: typer.Context, site: str, phase: str, _json: JsonFlag = False) -> None:
    """Set a site's phase: planned, construction, commissioning, operation or retired."""
    from cloudside.registry import sites

    cli = cli_of(context)
    with cli.write("gateway") as (session, caller):
        found = sites.change(session, caller, site_id=site, phase=phase)
    done(cli, row_of(found), "cli.phase-set", site=found.id, phase=found.phase)


@app.command()
def move(
    context: typer.Context,
    site: str,
    overlay: Annotated[str | None, typer.Option(help="The prefix in the tenant's block.")] = None,
    size: Annotated[int | None, typer.Option(help="Or the first free prefix of this length, such as 25.")] = None,
    lan: Annotated[str | None, typer.Option(help="What the LAN will use; else it begins where it does now.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Give a site another prefix in the overlay: certificate, rules and routes go with it. Its tunnel is made anew."""
    from cloudside.pki import enrolment, moving
    from cloudside.registry import sites

    cli = cli_of(context)
    with cli.read() as (session, caller):
        before = str(sites.get(session, caller, site).overlay)
    if not yes:
        confirm(cli, "cli.confirm-move", site=site, before=before)
    with cli.write("gateway", "relay") as (session, caller):
        moved = moving.move_site(
            session,
            cli.config,
            caller,
            site_id=site,
            overlay=overlay,
            length=size,
            lan=lan,
            now=cli.now,
            reserved=reserved(cli),
        )
    document = {**row_of(moved.site), "before": str(moved.overlay_before), "lan_before": str(moved.lan_before)}
    params = {"site": site, "before": str(moved.overlay_before), "overlay": str(moved.site.overlay)}
    alone = enrolment.reached_from_outside(cli.config)
    done(cli, document, "cli.site-moved" if alone else "cli.move-needs-tunnel", **params)


@app.command()
def revoke(
    context: typer.Context,
    site: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Shut a site out for good: its tunnel ends within seconds and its certificates count no more."""
    from cloudside.pki import revocation
    from cloudside.registry import sites

    cli = cli_of(context)
    with cli.read() as (session, caller):
        sites.get(session, caller, site)
    if not yes:
        confirm(cli, "cli.confirm-revoke", site=site)
    with cli.write("gateway", "relay") as (session, caller):
        revoked = revocation.revoke_site(session, cli.config, caller, site_id=site, now=cli.now)
    done(cli, row_of(revoked), "cli.site-revoked", site=revoked.id)


def row_of(site: "Site") -> dict[str, Any]:
    """A site as stated."""
    return {
        "site": site.id,
        "tenant": site.tenant_id,
        "overlay": str(site.overlay),
        "lan": str(site.lan),
        "phase": site.phase,
        "timezone": site.timezone,
        "revoked": site.revoked_at,
    }


def wait_for(cli: Cli, site: str, stated: "Settings", *, wait: bool, timeout: float | None) -> None:
    """Say what becomes of a version on its router, or, without ``wait``, that it is stated. Exits with UNDONE."""
    from cloudside.fleet import settings_change

    if not wait:
        done(cli, settings_row(stated), "cli.settings-stated", site=site, version=stated.version)
        return
    limit_s = timeout if timeout is not None else 2 * cli.config.web.settings_confirm_s
    became = settings_change.wait(cli.database, cli.caller, site_id=site, version=stated.version, timeout_s=limit_s)
    if became.state == "applied":
        done(cli, settings_row(became), "fleet.settings-applied", site=site, version=became.version)
        return
    problem = became.problem or {"key": "agent.settings-reverted", "params": {}}
    error = KyotenError(
        "fleet.settings-reverted",
        site=site,
        version=became.version,
        problem=text(problem["key"], problem["params"]),
        problem_key=problem["key"],
    )
    if cli.as_json:
        done(cli, settings_row(became), error.key)
    else:
        typer.echo(f"{text('cli.error')}: {text(error.key, error.params)}", err=True)
    raise typer.Exit(UNDONE)


def _prepare(cli: Cli, site: str, changes: "Mapping[str, Any]", *, draft: bool) -> None:
    """Put changes into the site's draft, or only show what they would change."""
    from cloudside.cli import settings as group
    from cloudside.fleet.settings_diff import differences
    from cloudside.registry import settings, settings_drafts

    if draft:
        with cli.write() as (session, caller):
            kept = settings_drafts.add(session, caller, site_id=site, changes=changes, author=cli.person, now=cli.now)
            document = {"site": site, "changes": settings.shown(kept.changes), "author": kept.author}
        done(cli, document, "settings.drafted", site=site, count=len(kept.changes))
        return
    with cli.read() as (session, caller):
        before = settings.wanted(session, caller, site)
    group.show_differences(cli, site, differences(before, settings.changed(before, changes)))


def read_secret(where: str) -> str:
    """A secret's value: ``-`` asks for it (or reads standard input), ``@FILE`` is the file's first line."""
    from cloudside.fleet.settings_change import read_secret_file

    if where != "-":
        return read_secret_file(where)
    if sys.stdin.isatty():
        return str(typer.prompt(text("cli.secret-value"), hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


def settings_row(row: "Settings") -> dict[str, Any]:
    from cloudside.registry.settings import shown

    """A version of a site's settings."""
    return {
        "version": row.version,
        "state": row.state,
        "values": shown(row.values),
        "problem": row.problem,
        "author": row.author,
    }
