"""`kyoten usage`: what sites sent, received and how long they were connected; for people, spreadsheets and programs."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.moments import moment, past
from cloudside.cli.output import print_json, print_table, print_text
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.registry.usage import Usage

app = typer.Typer(no_args_is_help=True, help="What sites sent and received, and how long they were connected.")

AMOUNTS = ("bytes_from_site", "bytes_to_site", "hours")
SITE_COLUMNS = ("since", "tenant", "site", *AMOUNTS)
MEMBERSHIP_COLUMNS = ("since", "tenant", "site", "group", *AMOUNTS)
TOTAL_COLUMNS = ("tenant", "sites", *AMOUNTS)


class Form(Enum):
    """How the answer is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class By(Enum):
    """What rows are summed to; times are UTC."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


FormOption = Annotated[Form, typer.Option("--format", help="table, csv (RFC 4180) or json.")]
TenantOption = Annotated[str | None, typer.Option("--of", metavar="TENANT", help="This tenant's sites only.")]
SiteOption = Annotated[str | None, typer.Option("--site", help="This site only.")]


@app.callback()
def group() -> None:
    """What sites sent and received, and how long they were connected."""


@app.command()
def rows(
    context: typer.Context,
    since: Annotated[str, typer.Option(metavar="MOMENT", help="'2026-12-24' in UTC, or 7d ago.")] = "1d",
    until: Annotated[str | None, typer.Option(metavar="MOMENT", help="Up to here; default: now.")] = None,
    by: Annotated[By, typer.Option(help="hour (as kept), day or month, in UTC.")] = By.HOUR,
    of: TenantOption = None,
    site: SiteOption = None,
    memberships: Annotated[bool, typer.Option("--memberships", help="By the groups (VPNs) of each site.")] = False,
    form: FormOption = Form.TABLE,
    _json: JsonFlag = False,
) -> None:
    """What was used, hour by hour, day by day or month by month."""
    from cloudside.registry import usage

    cli = cli_of(context)
    first = moment(since, now=cli.now)
    last = moment(until, now=cli.now) if until is not None else cli.now
    ask = usage.membership_rows if memberships else usage.site_rows
    with cli.read() as (session, caller):
        found = ask(session, caller, since=first, until=last, by=usage.Period(by.value), tenant=of, site=site)
    columns = MEMBERSHIP_COLUMNS if memberships else SITE_COLUMNS
    shown = [_row(one, columns) for one in found]
    if cli.as_json or form is Form.JSON:
        print_json({"since": first, "until": last, "by": by.value, "rows": shown})
    elif form is Form.CSV:
        _print_csv(shown, columns)
    else:
        print_table("usage", _rounded(shown), columns)


@app.command()
def statement(
    context: typer.Context,
    month: Annotated[str, typer.Option(metavar="YYYY-MM", help="The month, in UTC.")],
    of: TenantOption = None,
    form: FormOption = Form.TABLE,
    _json: JsonFlag = False,
) -> None:
    """A month's usage by tenant, site and membership. It adds up to the hours that `kyoten usage rows` shows."""
    from cloudside.registry import usage

    cli = cli_of(context)
    first, end = usage.month(month, cli.now)
    monthly = usage.Period.MONTH
    with cli.read() as (session, caller):
        sites = usage.site_rows(session, caller, since=first, until=end, by=monthly, tenant=of)
        members = usage.membership_rows(session, caller, since=first, until=end, by=monthly, tenant=of)
    site_rows = [_row(one, SITE_COLUMNS) for one in sites]
    member_rows = [_row(one, MEMBERSHIP_COLUMNS) for one in members]
    totals = _totals(sites)
    complete = cli.now >= end
    if cli.as_json or form is Form.JSON:
        print_json(
            {
                "month": month,
                "since": first,
                "until": end,
                "complete": complete,
                "tenants": totals,
                "sites": site_rows,
                "memberships": member_rows,
            }
        )
        return
    if form is Form.CSV:
        _print_csv([*({**row, "group": ""} for row in site_rows), *member_rows], MEMBERSHIP_COLUMNS)
        return
    print_table("usage", _rounded(totals), TOTAL_COLUMNS, title=text("cli.usage-tenants", {"month": month}))
    if sites:
        print_table("usage", _rounded(site_rows), SITE_COLUMNS[1:], title=text("cli.usage-sites"))
    if members:
        print_table("usage", _rounded(member_rows), MEMBERSHIP_COLUMNS[1:], title=text("cli.usage-memberships"))
    if not complete:
        print_text(text("cli.usage-incomplete", {"until": f"{cli.now:%Y-%m-%d %H:%M}"}))


@app.command()
def prune(
    context: typer.Context,
    before: Annotated[str, typer.Option(metavar="MOMENT", help="'2026-12-24' in UTC, or 800d ago.")],
    _json: JsonFlag = False,
) -> None:
    """Forget hours before a moment. `kyoten worker` does so by itself, see usage_months."""
    from cloudside.cli.context import operators_cli_of
    from cloudside.cli.output import done
    from cloudside.registry import usage

    cli = operators_cli_of(context)
    until = past(before, now=cli.now)
    gone, pruned = 0, 1
    while pruned:
        with cli.database.record() as session:
            pruned = usage.prune(session, cli.caller, before=until)
        gone += pruned
    done(cli, {"before": until, "pruned": gone}, "cli.usage-pruned", count=gone, before=f"{until:%Y-%m-%d %H:%M}")


def _row(one: "Usage", columns: Iterable[str]) -> dict[str, Any]:
    known = {
        "since": one.since,
        "tenant": one.tenant,
        "site": one.site,
        "group": one.group,
        "bytes_from_site": one.bytes_from_site,
        "bytes_to_site": one.bytes_to_site,
        "hours": one.hours,
    }
    return {name: known[name] for name in columns}


def _totals(found: Sequence["Usage"]) -> list[dict[str, Any]]:
    totals: dict[str, dict[str, Any]] = {}
    for one in found:
        total = totals.setdefault(one.tenant, {"tenant": one.tenant, "sites": 0, **dict.fromkeys(AMOUNTS, 0)})
        total["sites"] += 1
        total["bytes_from_site"] += one.bytes_from_site
        total["bytes_to_site"] += one.bytes_to_site
        total["hours"] += one.hours
    return list(totals.values())


def _rounded(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For people: bytes in groups of three digits, hours with two places."""
    return [
        {**row, **{name: f"{row[name]:,}" for name in AMOUNTS[:2]}, "hours": f"{row['hours']:,.2f}"} for row in rows
    ]


def _print_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    written = io.StringIO()
    table = csv.DictWriter(written, columns)
    table.writeheader()
    for row in rows:
        table.writerow({name: _cell(value) for name, value in row.items()})
    print_text(written.getvalue().removesuffix("\r\n"))


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, float):
        return f"{value:.6f}"
    # A cell that begins like a formula is one for a spreadsheet; names cannot, as they are made.
    return str(value)
