"""`kyoten rollout`: a version on its way to many sites. How one stands: rollout_status."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli import rollout_options as options
from cloudside.cli import rollout_status
from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.output import confirm, done, print_json, print_table, print_text
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.fleet.rollouts.model import Plan
    from cloudside.fleet.rollouts.plan import Cost, DryRun, Planned
    from cloudside.registry.tables import Rollout

app = typer.Typer(no_args_is_help=True, help="Firmware to many sites, ring after ring.")
rollout_status.register(app)

COST_COLUMNS = ("ring", "who", "soak", "sites", "delta", "full", "mobile", "offline", "wired_mib", "mobile_mib")
SITE_COLUMNS = ("site", "tenant", "ring", "from_version", "kind", "uplink", "size_mib", "offline", "waits")
OUT_COLUMNS = ("why", "sites")

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
RolloutName = Annotated[str, typer.Argument(metavar="ROLLOUT", help="`kyoten rollout list` names them.")]


@app.command()
def plan(
    context: typer.Context,
    version: options.Version,
    site: options.Sites = None,
    label: options.Labels = None,
    tenant: options.Tenant = None,
    hardware: options.Hardware = None,
    ring: options.Rings = None,
    at_once: options.AtOnce = None,
    per_hour: options.PerHour = None,
    window: options.Window = "",
    tolerate: options.Tolerate = "1%",
    harm: options.Harm = "0.4%",
    silent: options.Silent = "2h",
    wait: options.Wait = "30d",
    consent: options.Consent = False,
    rate: options.Rate = 0,
    budget: options.Budget = None,
    permit: options.Permit = None,
    at: options.At = None,
    list_sites: Annotated[bool, typer.Option("--sites", help="List each site.")] = False,
    _json: JsonFlag = False,
) -> None:
    """What a start would do, with the same words: who gets what, over which line, at what cost. Changes nothing."""
    from cloudside.fleet.rollouts import wishes

    cli = cli_of(context)
    wanted = options.plan_of(
        rings=ring, at_once=at_once, per_hour=per_hour, window=window, tolerate=tolerate, harm=harm, silent=silent,
        wait=wait, consent=consent, rate=rate, budget=budget, permit=permit, at=at,
    )  # fmt: skip
    options.check_permit(cli, wanted)
    with cli.read() as (session, caller):
        chosen = options.selection_of(session, caller, sites=site, tenant=tenant, labels=label, hardware=hardware)
        dry = wishes.draft(session, caller, version=version, plan=wanted, selection=chosen, now=cli.now)
    if cli.as_json:
        print_json(document(dry, wanted, version))
    else:
        show(dry, wanted, list_sites=list_sites)


@app.command()
def start(
    context: typer.Context,
    version: options.Version,
    site: options.Sites = None,
    label: options.Labels = None,
    tenant: options.Tenant = None,
    hardware: options.Hardware = None,
    ring: options.Rings = None,
    at_once: options.AtOnce = None,
    per_hour: options.PerHour = None,
    window: options.Window = "",
    tolerate: options.Tolerate = "1%",
    harm: options.Harm = "0.4%",
    silent: options.Silent = "2h",
    wait: options.Wait = "30d",
    consent: options.Consent = False,
    rate: options.Rate = 0,
    budget: options.Budget = None,
    permit: options.Permit = None,
    at: options.At = None,
    yes: Yes = False,
    _json: JsonFlag = False,
) -> None:
    """Start a rollout: the first ring gets the version, is watched, then the next. It halts by itself."""
    from cloudside.fleet.rollouts import wishes

    cli = cli_of(context)
    wanted = options.plan_of(
        rings=ring, at_once=at_once, per_hour=per_hour, window=window, tolerate=tolerate, harm=harm, silent=silent,
        wait=wait, consent=consent, rate=rate, budget=budget, permit=permit, at=at,
    )  # fmt: skip
    options.check_permit(cli, wanted)
    if not yes:
        with cli.read() as (session, caller):
            chosen = options.selection_of(session, caller, sites=site, tenant=tenant, labels=label, hardware=hardware)
            dry = wishes.draft(session, caller, version=version, plan=wanted, selection=chosen, now=cli.now)
        if dry.planned:  # else the start below says why nobody would get it
            if not cli.as_json:
                show(dry, wanted, list_sites=False)
            mib = _mib(dry.total.mobile_bytes)
            confirm(cli, "rollout.confirm-start", version=version, sites=str(dry.total.sites), mobile=f"{mib:g}")
    with cli.write() as (session, caller):
        chosen = options.selection_of(session, caller, sites=site, tenant=tenant, labels=label, hardware=hardware)
        row, dry = wishes.start(
            session, caller, version=version, plan=wanted, selection=chosen, author=cli.person, now=cli.now
        )
    told = {**document(dry, wanted, version), "state": row.state}
    done(cli, told, "rollout.started", rollout=row.id, sites=dry.total.sites, rings=len(wanted.rings))


@app.command()
def pause(context: typer.Context, rollout: RolloutName, _json: JsonFlag = False) -> None:
    """Nobody new gets the version. Sites that have begun go on."""
    from cloudside.fleet.rollouts import wishes

    cli = cli_of(context)
    with cli.write() as (session, caller):
        row = wishes.pause(session, caller, rollout)
    _done(cli, row, "rollout.paused")


@app.command()
def resume(context: typer.Context, rollout: RolloutName, yes: Yes = False, _json: JsonFlag = False) -> None:
    """Go on after a pause; or after a halt: then what failed until now counts no more."""
    from cloudside.fleet.rollouts import wishes
    from cloudside.registry import rollouts

    cli = cli_of(context)
    with cli.read() as (session, caller):
        before = rollouts.get(session, caller, rollout)
    if before.state == "halted" and not yes:
        why = text(before.cause["key"], before.cause["params"]) if before.cause else "-"
        confirm(cli, "rollout.confirm-resume", rollout=before.id, why=why)
    with cli.write() as (session, caller):
        row = wishes.resume(session, caller, rollout, now=cli.now)
    _done(cli, row, "rollout.resumed")


@app.command()
def abort(context: typer.Context, rollout: RolloutName, yes: Yes = False, _json: JsonFlag = False) -> None:
    """End it for good: offers are withdrawn. What is installed stays; what is being tried judges itself."""
    from cloudside.fleet.rollouts import wishes
    from cloudside.registry import rollouts

    cli = cli_of(context)
    with cli.read() as (session, caller):
        rollouts.get(session, caller, rollout)
    if not yes:
        confirm(cli, "rollout.confirm-abort", rollout=rollout)
    with cli.write() as (session, caller):
        row = wishes.abort(session, caller, rollout, now=cli.now)
    _done(cli, row, "rollout.aborted")


def document(dry: "DryRun", wanted: "Plan", version: str) -> dict[str, Any]:
    """A dry run for programs."""
    from dataclasses import asdict

    from cloudside.fleet.rollouts.rings import in_words

    return {
        "rollout": dry.rollout,
        "version": version,
        "rings": [
            {"ring": number, "who": in_words(ring), **asdict(cost)}
            for number, (ring, cost) in enumerate(zip(wanted.rings, dry.by_ring, strict=True), start=1)
        ],
        "total": asdict(dry.total),
        "left_out": dict(dry.left_out),
        "sites": [_site_row(one) for one in dry.planned],
    }


def show(dry: "DryRun", wanted: "Plan", *, list_sites: bool) -> None:
    """A dry run for people."""
    from cloudside.fleet.rollouts.rings import in_words

    rows = []
    for number, (ring, cost) in enumerate(zip(wanted.rings, dry.by_ring, strict=True), start=1):
        who, _, soak = in_words(ring).partition(":")
        rows.append({"ring": number, "who": who, "soak": soak if ring.soak_s else "", **_cost_row(cost)})
    rows.append({"ring": text("rollout.all"), **_cost_row(dry.total)})
    print_table("rollout-sites", rows if dry.planned else [], COST_COLUMNS, title=dry.rollout)
    outs = [{"why": text(f"rollout.out-{why}"), "sites": count} for why, count in sorted(dry.out_counts().items())]
    if outs:
        print_table("rollout-sites", outs, OUT_COLUMNS, title=text("rollout.title-left-out"))
    if dry.total.waiting_sites:
        print_text(text("rollout.full-on-mobile", {"count": dry.total.waiting_sites}))
    if list_sites:
        shown = [
            {**_site_row(one), "kind": text(f"rollout.kind-{one.kind}"), "size_mib": _mib(one.size_bytes)}
            for one in dry.planned
        ]
        print_table("rollout-sites", shown, SITE_COLUMNS)


def _done(cli: Cli, row: "Rollout", key: str) -> None:
    document = {"rollout": row.id, "version": row.version, "state": row.state, "ring": row.ring + 1}
    done(cli, document, key, rollout=row.id, version=row.version)


def _cost_row(cost: "Cost") -> dict[str, Any]:
    return {
        "sites": cost.sites,
        "delta": cost.delta_sites,
        "full": cost.full_sites,
        "mobile": cost.mobile_sites,
        "offline": cost.offline_sites,
        "wired_mib": _mib(cost.wired_bytes),
        "mobile_mib": _mib(cost.mobile_bytes),
    }


def _site_row(one: "Planned") -> dict[str, Any]:
    return {
        "site": one.place.site,
        "tenant": one.place.tenant,
        "ring": one.ring + 1,
        "from_version": one.place.version,
        "release": one.path,
        "kind": one.kind.value,
        "uplink": one.place.uplink,
        "size_bytes": one.size_bytes,
        "offline": one.offline,
        "waits": one.waits,
    }


def _mib(size: int) -> float:
    return round(size / (1 << 20), 1)
