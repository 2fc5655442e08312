"""`kyoten firmware modules`: which sites have which small signed parts, as their routers said."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli import state_words as words
from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import show_rows

if TYPE_CHECKING:
    from cloudside.registry.tables import SiteFirmware

COLUMNS = ("module", "version", "stage", "sites")
SITE_COLUMNS = ("site", "module", "version", "stage", "problem")


def modules(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="One module; else all of them.")] = "",
    sites: Annotated[bool, typer.Option("--sites", help="Site by site, with what stands in the way.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Which modules sites have in use, which they refused, and why. As each router said last."""
    from cloudside.registry import releases

    cli = cli_of(context)
    with cli.read() as (session, caller):
        said = releases.states(session, caller)
    each = [
        {"site": site, **one} for site, row in said.items() for one in of_site(row) if not name or one["module"] == name
    ]
    if sites:
        shown = each if cli.as_json else [words.module(one) for one in each]
        show_rows(cli, "modules", shown, SITE_COLUMNS)
        return
    counted = Counter((one["module"], one["version"], one["stage"]) for one in each)
    rows = [
        {"module": module, "version": version, "stage": stage, "sites": count}
        for (module, version, stage), count in sorted(counted.items())
    ]
    show_rows(cli, "modules", rows if cli.as_json else [words.module(row) for row in rows], COLUMNS)


def of_site(row: "SiteFirmware") -> list[dict[str, Any]]:
    """What a router said of its modules, each with ``module``, ``version``, ``stage``, ``problem``."""
    return [
        {
            "module": str(one.get("name", "")),
            "version": str(one.get("version", "")),
            "stage": str(one.get("stage", "")),
            "problem": words.problem(one.get("problem")),
        }
        for one in row.modules.get("modules", ())
    ]
