"""`kyoten why`, `reach`, `who-can-reach`: who may reach whom, in answers to questions. Changes nothing.

Only what a question is about is read: its ends' tenants, and all of them only where a shared server is asked about.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.authorship import Authorship, written_by
from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.output import print_json, print_table, print_text
from cloudside.cli.plans import inventory_of, print_reaches, reach_rows
from cloudside.errors import InputError, combined
from cloudside.messages import text

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from cloudside.registry.callers import Caller
    from rules.compile import RuleSet
    from rules.granted import Granted
    from rules.model import Grant, Inventory, PlatformSource, Policy, Statement, Validity
    from rules.problems import Problem
    from rules.reach import Reach

GRANT_COLUMNS = ("grant", "source", "destination", "service", "ends")
#: Exit status of `kyoten why` when the answer is no, so that a program can ask without reading.
BLOCKED = 1
STATEMENT_COLUMNS = ("statement", "place", "valid", "author", "applied", "version", "reason", "owner")

End = Annotated[str, typer.Argument(help="Site, SITE/DEVICE, server or address.")]
ServiceName = Annotated[str, typer.Argument(help="Such as tcp/443, modbus-tcp or ping.")]


@dataclass(frozen=True, slots=True)
class _World:
    """What a question is held against, at one instant. ``gone``: sites asked about that are out of service."""

    inventory: "Inventory"
    platform: "PlatformSource | None"
    policy: "Policy"
    rule_set: "RuleSet"
    gone: Mapping[str, str]
    at: "datetime"


def register(app: typer.Typer) -> None:
    """Put the questions into the tree."""
    app.command("why")(why)
    app.command("reach")(reach)
    app.command("who-can-reach")(who_can_reach)


def why(context: typer.Context, source: End, destination: End, service: ServiceName, _json: JsonFlag = False) -> None:
    """Say whether A may reach B with a service, and which statements decide it. Exit status 1: it may not."""
    from rules.explain import Explainer
    from rules.problems import PolicyError

    cli = cli_of(context)
    with cli.read() as (session, caller):
        world = _world(session, caller, (source, destination), cli.now)
        explainer = Explainer(world.policy, world.rule_set, world.inventory, at=world.at, gone=world.gone)
        try:
            answer = explainer.explain(source, destination, service)
        except PolicyError as error:
            raise _wrong(error.problems) from None
        authors = written_by(session, caller, answer.statements, world.inventory, world.platform)
    statements = [_statement_row(one, authors.get(one.id), world.at) for one in answer.statements]
    reasons = [
        {"key": one.key, "params": dict(one.params), "text": text(one.key, one.params)} for one in answer.reasons
    ]
    visits = [_grant_row(one) for one in answer.grants]
    if cli.as_json:
        print_json({"allowed": answer.allowed, "statements": statements, "reasons": reasons, "grants": visits})
    else:
        params = {"source": source, "destination": destination, "service": service}
        print_text(text("cli.why-allowed" if answer.allowed else "cli.why-blocked", params))
        for number, reason in enumerate(reasons, start=1):
            print_text(f"  {number}. {reason['text']}")
        if statements:
            print_table("statements", statements, STATEMENT_COLUMNS)
        if visits:
            print_table("grants", visits, GRANT_COLUMNS, title=text("cli.title-grants"))
    if not answer.allowed:
        raise typer.Exit(BLOCKED)


def reach(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="A", help="Site, SITE/DEVICE, server or address.")],
    _json: JsonFlag = False,
) -> None:
    """Everything that A may open."""
    from rules.granted import granted
    from rules.matrix import Way
    from rules.reach import reach

    cli = cli_of(context)
    with cli.read() as (session, caller):
        world = _world(session, caller, (source,), cli.now, whole_if_shared=True)
    end = _end(world, source)
    gone = end.split("/")[0] in world.gone
    found = () if gone else reach(world.rule_set, end)
    visits = () if gone else granted(world.rule_set, end, Way.FROM)
    _show(cli, world, found, visits, end, {"source": source}, "cli.reaches-nothing", "source")


def who_can_reach(
    context: typer.Context,
    destination: Annotated[str, typer.Argument(metavar="B", help="Site, SITE/DEVICE, server or address.")],
    service: Annotated[str, typer.Argument(help="Such as tcp/502; else any.")] = "any",
    _json: JsonFlag = False,
) -> None:
    """Everyone who may open a service, or any, towards B."""
    from rules.explain import asked
    from rules.granted import granted
    from rules.matrix import Way
    from rules.reach import who_can_reach

    cli = cli_of(context)
    with cli.read() as (session, caller):
        world = _world(session, caller, (destination,), cli.now, whole_if_shared=True)
    problems: list[Problem] = []
    services = asked(service, problems, world.rule_set.platform.services)
    end = _end(world, destination, problems)
    gone = end.split("/")[0] in world.gone
    found = () if gone else who_can_reach(world.rule_set, end, services)
    visits = () if gone else granted(world.rule_set, end, Way.TOWARDS, services)
    document = {"destination": destination, "service": service}
    _show(cli, world, found, visits, end, document, "cli.reached-by-nobody", "destination")


def _show(
    cli: Cli,
    world: _World,
    found: "Sequence[Reach]",
    visits: "Sequence[Granted]",
    end: str,
    document: dict[str, str],
    empty: str,
    without: str,
) -> None:
    if cli.as_json:
        told = [
            {"grant": one.grant.id, "ends": one.grant.until, **row} for one in visits for row in reach_rows(one.rows)
        ]
        print_json({**document, "reach": reach_rows(found), "grants": told})
        return
    if (site := end.split("/")[0]) in world.gone:
        print_text(text("cli.site-out-of-service", {"site": site}))
    elif not found and not visits:
        print_text(text(empty, document))
    elif found:
        # A device that differs from its site has rows of its own, under its own name.
        several = len({getattr(one, without) for one in found}) > 1
        print_reaches("reach", found, None, without="" if several else without)
    if visits:
        rows = [row for one in visits for row in _granted_rows(one)]
        print_table("grants", rows, GRANT_COLUMNS, title=text("cli.title-grants"))


def _granted_rows(one: "Granted") -> list[dict[str, Any]]:
    """What a grant lets pass, a pair's services on one line."""
    from rules.services import shown

    services: dict[tuple[str, str], list[str]] = {}
    for row in one.rows:
        services.setdefault((row.source, row.destination), []).append(shown(row.service))
    return [
        {"grant": one.grant.id, "source": source, "destination": destination, "service": ", ".join(words)}
        | {"ends": one.grant.until}
        for (source, destination), words in services.items()
    ]


def _grant_row(grant: "Grant") -> dict[str, Any]:
    from rules.services import shown

    return {
        "grant": grant.id,
        "source": grant.source,
        "destination": grant.destination,
        "service": ", ".join(shown(one) for one in grant.services),
        "ends": grant.until,
    }


def _world(
    session: "Session", caller: "Caller", names: Sequence[str], at: "datetime", *, whole_if_shared: bool = False
) -> _World:
    """All that a question about these names depends on, and that exists for the caller."""
    from cloudside.registry import grants, inventory, policies
    from cloudside.registry.callers import OPERATOR
    from rules.compile import compile_policy
    from rules.model import PolicySource
    from rules.parse import parse_stored

    homes = [name.split("/")[0] for name in names]
    wanted = (
        [caller.tenant] if caller.tenant is not None else tenants_of(session, homes, whole_if_shared=whole_if_shared)
    )
    if wanted is None:
        known, platform = inventory.load(session), inventory.platform_source(session)
        sources = inventory.policy_sources(session)
    else:
        known, platform = inventory_of(session, wanted)
        kept = [policies.in_force(session, OPERATOR, tenant) for tenant in wanted]
        sources = tuple(PolicySource(one.tenant_id, one.file_name, one.text) for one in kept if one is not None)
    known, gone = _with_gone(session, caller, known, homes)
    policy, _ = parse_stored(sources, known, platform)
    holding = [
        grants.for_rules(one)
        for one in grants.active(session, caller, now=at)
        if wanted is None or one.tenant_id in wanted
    ]
    return _World(known, platform, policy, compile_policy(policy, known, at=at, grants=holding), gone, at)


def tenants_of(session: "Session", homes: Iterable[str], *, whole_if_shared: bool) -> list[str] | None:
    """The tenants that sites, servers and addresses belong to; None: all, for suggestions or a shared server."""
    from ipaddress import ip_address

    from cloudside.registry import tenants
    from cloudside.registry.callers import OPERATOR
    from cloudside.registry.tables import Server, Site

    found: set[str] = set()
    for home in homes:
        if (site := session.get(Site, home)) is not None:
            found.add(site.tenant_id)
        elif (server := session.get(Server, home)) is not None:
            if server.tenant_id is not None:
                found.add(server.tenant_id)
            elif whole_if_shared:
                return None
        else:
            try:
                address = ip_address(home)
            except ValueError:
                return None
            owner = [one.id for one in tenants.every(session, OPERATOR) if address in one.block]
            if not owner and whole_if_shared:
                return None
            found |= set(owner)
    return sorted(found)


def _with_gone(
    session: "Session", caller: "Caller", known: "Inventory", homes: Iterable[str]
) -> "tuple[Inventory, dict[str, str]]":
    """The inventory with sites asked about that are revoked or retired as if they were in service, so that everything
    else in the way can be told too."""
    from cloudside.registry import devices, sites
    from rules.model import Device, Site

    gone: dict[str, str] = {}
    for home in sorted(set(homes) - {site.name for site in known.sites}):
        try:
            site = sites.get(session, caller, home)
        except InputError:
            continue  # no site: the question's own words say so
        gone[home] = "retired" if site.revoked_at is None else "revoked"
        own = devices.every(session, caller, site_id=home)
        known = replace(
            known,
            sites=(*known.sites, Site(site.id, site.tenant_id, site.overlay)),
            devices=(
                *known.devices,
                *(Device(site.id, one.name, devices.overlay_address_of(site, one)) for one in own),
            ),
        )
    return known, gone


def _end(world: _World, name: str, problems: "list[Problem] | None" = None) -> str:
    """The endpoint that a name or an address stands for. Raises InputError: none; and what was wrong before."""
    from rules.explain import end_of

    found: list[Problem] = [] if problems is None else problems
    parts = end_of(world.rule_set, name, found)
    if found:
        raise _wrong(found)
    return parts[0][0].name


def _wrong(problems: "Iterable[Problem]") -> InputError:
    # The question is wrong, not a file: only the end or the service that does not exist is named.
    return combined([InputError(one.kind, **one.params) for one in problems])


def _statement_row(one: "Statement", author: Authorship | None, at: "datetime") -> dict[str, Any]:
    row: dict[str, Any] = {"statement": str(one.id), "place": str(one.place), "action": one.action.value}
    row |= {"reason": one.reason, "owner": one.owner, "valid": _valid(one.validity, at)}
    if author is not None:
        row |= {"author": author.author, "applied": author.applied_at, "version": author.version}
        row["exact"] = author.exact
    return row


def _valid(validity: "Validity | None", at: "datetime") -> str:
    """A validity in words, and until when it is as it is now."""
    from rules.validity import next_change
    from rules.written import hours_written, moment_in, moment_written

    if validity is None:
        return text("cli.valid-always")
    words = []
    if validity.start is not None:
        words.append(text("cli.valid-from", {"moment": moment_written(validity.zone, validity.start)}))
    if validity.until is not None:
        words.append(text("cli.valid-until", {"moment": moment_written(validity.zone, validity.until)}))
    if validity.weekly:
        words.append(hours_written(validity))
    change = next_change(validity, at)
    if change is not None:
        words.append(text("cli.valid-next-change", {"moment": moment_in(validity.zone, change)}))
    return ", ".join(words)
