"""`kyoten site label`: words about a site, for choosing sites."""

from typing import Annotated

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import done, show_rows

COLUMNS = ("site", "label", "value")


def register(app: typer.Typer) -> None:
    """Put the command into the group of `kyoten site`."""
    app.command("label")(label)


def label(
    context: typer.Context,
    site: Annotated[str | None, typer.Argument(help="Else all sites' labels are listed.")] = None,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Labels; KEY= takes one away.")
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Label a site, or show labels. Sites of a tenant with the same `exclusive` are never updated at once."""
    from cloudside.registry import labels

    cli = cli_of(context)
    if site is not None and words:
        changes = labels.parse(words)
        with cli.write() as (session, caller):
            found = labels.set_labels(session, caller, site_id=site, changes=changes)
        shown = ", ".join(f"{key}={value}" for key, value in found.items()) or "-"
        done(cli, {"site": site, "labels": found}, "cli.labels-set", site=site, labels=shown)
        return
    with cli.read() as (session, caller):
        every = labels.every(session, caller) if site is None else {site: labels.of_site(session, caller, site)}
    rows = [
        {"site": name, "label": key, "value": value}
        for name, own in sorted(every.items())
        for key, value in own.items()
    ]
    show_rows(cli, "labels", rows, COLUMNS)
