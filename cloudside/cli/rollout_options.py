"""What `kyoten rollout plan` and `start` are told: whom, in which rings, how carefully. Words to a plan."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloudside.cli.moments import duration
from cloudside.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from cloudside.cli.context import Cli
    from cloudside.fleet.rollouts.model import Plan
    from cloudside.fleet.rollouts.wishes import Selection
    from cloudside.registry.callers import Caller

#: Of a permit's text; fleet.protocol.FirmwareOffer.permit.
PERMIT_MAX_CHARS = 20_000

Version = Annotated[str, typer.Argument(help="A published version: `kyoten firmware list`.")]
Sites = Annotated[list[str] | None, typer.Option("--site", metavar="SITE", help="Only this site; repeatable.")]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only sites with this label; repeatable.")
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Only this tenant's sites.")]
Hardware = Annotated[str | None, typer.Option("--hardware", help="Only routers of this kind.")]
Rings = Annotated[
    list[str] | None,
    typer.Option(
        "--ring",
        metavar="WHO[:SOAK]",
        help="A ring: a share of all sites so far, or a label, and how long it is watched: 1%:24h, canary=yes:2d. "
        "Repeatable, in order; all other sites follow. Else 0.3%:24h, 3%:24h, 20%:24h, 100%.",
    ),
]
AtOnce = Annotated[
    int | None, typer.Option("--at-once", min=1, help="Sites of a ring at work at once; else a fifth of it.")
]
PerHour = Annotated[int | None, typer.Option("--per-hour", min=1, help="Sites whose turn comes in an hour.")]
Window = Annotated[str, typer.Option("--window", metavar="HH:MM-HH:MM", help="Only then, in each site's own time.")]
Tolerate = Annotated[
    str, typer.Option("--tolerate", metavar="PERCENT", help="Failures that are borne: halted when they are more.")
]
Harm = Annotated[
    str, typer.Option("--harm", metavar="PERCENT", help="Most of all sites that may be harmed (5 sites at least).")
]
Silent = Annotated[str, typer.Option("--silent", metavar="TIME", help="Not heard so long after its turn: a failure.")]
Wait = Annotated[str, typer.Option("--wait", metavar="TIME", help="How long offline sites are waited for in the end.")]
Consent = Annotated[
    bool, typer.Option("--consent", help="Agree to the full image on mobile lines beyond their data budget.")
]
Rate = Annotated[int, typer.Option("--rate", min=0, metavar="BYTES", help="Bytes a second for each site; 0: no limit.")]
Budget = Annotated[
    int | None, typer.Option("--budget", min=0, metavar="MIB", help="MiB on a mobile line for it; else what is left.")
]
Permit = Annotated[
    Path | None, typer.Option("--permit", help="File with a signed permit: a downgrade (`kyoten firmware permit`).")
]
At = Annotated[str | None, typer.Option("--at", metavar="MOMENT", help="Begin then, UTC: '2026-12-24 08:00'.")]


def plan_of(
    *,
    rings: list[str] | None,
    at_once: int | None,
    per_hour: int | None,
    window: str,
    tolerate: str,
    harm: str,
    silent: str,
    wait: str,
    consent: bool,
    rate: int,
    budget: int | None,
    permit: Path | None,
    at: str | None,
) -> "Plan":
    """The plan that these words mean. Raises InputError."""
    from cloudside.fleet.rollouts import rings as rings_of
    from cloudside.fleet.rollouts.model import DEFAULT_RINGS, Limits, Plan, Terms
    from cloudside.fleet.rollouts.schedule import check_window

    found = rings_of.checked([rings_of.parse(one) for one in rings]) if rings else DEFAULT_RINGS
    limits = Limits(
        tolerated=_share(tolerate),
        harm=_share(harm),
        at_once=at_once,
        per_hour=per_hour,
        silent_s=duration(silent).total_seconds(),
        wait_s=duration(wait).total_seconds(),
        window=check_window(window.strip()),
    )
    terms = Terms(consent, rate, None if budget is None else budget << 20, None if permit is None else _permit(permit))
    return Plan(found, limits, terms, None if at is None else _moment(at))


def selection_of(
    session: "Session",
    caller: "Caller",
    *,
    sites: list[str] | None,
    tenant: str | None,
    labels: list[str] | None,
    hardware: str | None,
) -> "Selection":
    """Which sites these words mean. Raises InputError: unknown tenant or site, bad label."""
    from cloudside.fleet.rollouts.wishes import Selection
    from cloudside.registry import labels as labels_of
    from cloudside.registry import sites as sites_of
    from cloudside.registry import tenants

    if tenant is not None:
        tenants.get(session, caller, tenant)
    for site in sites or ():
        sites_of.get(session, caller, site)
    wanted = {key: value for key, value in labels_of.parse(labels or []).items() if value is not None}
    if len(wanted) != len(labels or ()):
        raise InputError("registry.bad-label", label=", ".join(labels or ())[:120])
    return Selection(frozenset(sites or ()), tenant or "", hardware or "", wanted)


def _share(text: str) -> float:
    try:
        found = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        raise InputError("rollout.bad-share", text=text[:40]) from None
    if not 0 < found < 1:
        raise InputError("rollout.bad-share", text=text[:40])
    return found


def _permit(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as stream:
            text = stream.read(PERMIT_MAX_CHARS + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise InputError("rollout.permit-unreadable", path=str(path), reason=reason) from None
    if not text.strip() or len(text) > PERMIT_MAX_CHARS:
        raise InputError("rollout.permit-unreadable", path=str(path), reason=f"{len(text)} characters")
    return text


def check_permit(cli: "Cli", plan: "Plan") -> None:
    """A permit that every router would refuse begins no rollout. Raises InputError."""
    if plan.terms.permit is None:
        return
    from cloudside.fleet.releases import translated
    from firmware import permit
    from firmware.fields import instant
    from firmware.repository import storage

    with translated():
        found = permit.parse(plan.terms.permit.encode())
        root = storage.Storage(cli.config.firmware_directory).published_root().signed
        missing, could = permit.missing(found, root)
    if missing:
        raise InputError("rollout.permit-unsigned", missing=missing, could=", ".join(could) or "-")
    if cli.now >= instant(found.permit.expires):
        raise InputError("rollout.permit-expired", expires=found.permit.expires)


def _moment(given: str) -> datetime:
    try:
        found = datetime.fromisoformat(given.strip())
    except ValueError:
        raise InputError("cli.bad-moment", text=given[:40]) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
