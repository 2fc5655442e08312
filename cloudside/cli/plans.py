"""Plans: a policy held against the registry of one moment, what it would open and close, and the gate before it counts.

A plan is made anew by each command, so what `apply` puts in force is judged as it is at that moment; a code from an
earlier `plan` passes only if nothing changed in between.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli
from cloudside.cli.output import print_json, print_table, print_text
from cloudside.errors import InputError, InputErrors, RefusedError
from cloudside.messages import text

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from cloudside.registry.callers import Caller
    from rules.diff import Difference
    from rules.gate import Assessment
    from rules.matrix import Pair
    from rules.model import Inventory, PlatformSource, Policy, PolicySource
    from rules.problems import Problem
    from rules.reach import Reach

#: Pairs of a difference that people are shown.
ROWS_MAX = 200
#: Pairs of a difference that JSON has; a change of the platform's file can be about a million.
JSON_PAIRS_MAX = 20_000
REACH_COLUMNS = ("source", "destination", "service", "apart")
#: Pairs that a refusal names.
PAIRS_SHOWN = 5

Acknowledge = Annotated[
    str | None, typer.Option("--acknowledge", metavar="CODE", help="The code of the plan: apply exactly that.")
]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy would change, and whether it needs a yes. ``told`` is what it costs policies that are in force."""

    policy: "Policy"
    difference: "Difference"
    gate: "Assessment"
    told: "tuple[Problem, ...]" = ()


def inventory_of(session: "Session", tenant_ids: Iterable[str]) -> "tuple[Inventory, PlatformSource | None]":
    """All tenants' blocks, the sites, devices and servers of those tenants, shared servers; the platform's file."""
    from cloudside.registry import inventory, tenants
    from cloudside.registry.callers import OPERATOR
    from rules.model import Inventory

    blocks = {tenant.id: tenant.block for tenant in tenants.every(session, OPERATOR)}
    found = [inventory.load_tenant(session, tenant) for tenant in sorted(set(tenant_ids))]
    parts = [part for part in found if part is not None]
    shared = inventory.load_shared(session)
    known = Inventory(
        tenants=blocks,
        sites=tuple(site for part in parts for site in part.sites),
        devices=tuple(device for part in parts for device in part.devices),
        servers=(*(server for part in parts for server in part.servers), *shared.servers),
    )
    return known, shared.platform


def policy_plan(session: "Session", caller: "Caller", source: "PolicySource", *, now: "datetime", limit: int) -> Plan:
    """A tenant's policy against the one in force.

    Raises InputErrors: every problem of the file, expectations of its own that it breaks; InputError: another tenant's.
    """
    from cloudside.registry import policies, tenants
    from rules.compile import compile_policy
    from rules.diff import diff
    from rules.expect import check
    from rules.gate import assess

    known, platform = inventory_of(session, [source.tenant])
    policy = checked(source, known, platform)
    tenants.get(session, caller, source.tenant)
    rule_set = compile_policy(policy, known, at=now)
    if broken := check(rule_set, policy):
        raise as_input(broken)
    kept = policies.in_force(session, caller, source.tenant)
    before = None if kept is None else stored(kept.tenant_id, kept.file_name, kept.text, known, platform)[0]
    was = None if before is None else compile_policy(before, known, at=now)
    difference = diff(was, rule_set)
    against = 0 if kept is None else kept.version
    gate = assess(before, policy, known, difference, at=now, scope=source.tenant, against=against, limit=limit)
    return Plan(policy, difference, gate)


def checked(source: "PolicySource", known: "Inventory", platform: "PlatformSource | None") -> "Policy":
    """Raises InputErrors: every problem of the file."""
    from rules.parse import parse, parse_stored
    from rules.problems import PolicyError

    try:
        return parse([source], known, platform)
    except PolicyError as error:
        # What came to be wrong with the platform's file in force, a shared server that is gone, is no tenant's fault.
        own = [one for one in error.problems if platform is None or one.file != platform.file_name]
        if own or source.file_name == (platform and platform.file_name):
            raise as_input(own or error.problems) from None
    return parse_stored([source], known, platform)[0]


def stored(
    tenant: str, file_name: str, written: str, known: "Inventory", platform: "PlatformSource | None"
) -> "tuple[Policy, tuple[Problem, ...]]":
    """A version that was accepted once, as it reads today, and what no longer holds of it."""
    from rules.model import PolicySource
    from rules.parse import parse_stored

    return parse_stored([PolicySource(tenant, file_name, written)], known, platform)


def put_in_force(
    cli: Cli,
    plan_of: "Callable[[Session, Caller], Plan]",
    keep: "Callable[[Session, Caller], int]",
    *,
    acknowledge: str | None,
    look: str,
) -> tuple[Plan, int]:
    """Judge, keep a new version, tell the gateways; the plan and the version's number.

    Raises InputErrors and RefusedError; nothing is written then.
    """
    with cli.read() as (session, caller):
        # A mistake or a refusal is told without keeping other writers waiting.
        require_yes(plan_of(session, caller), acknowledge, look)
    with cli.write("gateway") as (session, caller):
        plan = plan_of(session, caller)  # what counts: nothing can change between this and the commit
        require_yes(plan, acknowledge, look)
        return plan, keep(session, caller)


def require_yes(plan: Plan, code: str | None, look: str) -> None:
    """Raise RefusedError unless the plan may be applied with this code. ``look`` is the command that shows the plan."""
    if code is not None:
        if code.strip().lower() != plan.gate.code:
            raise RefusedError("cli.plan-is-another", code=code[:40], look=look)
        return
    if plan.gate.needs_yes:
        raise RefusedError(
            "cli.plan-needs-yes",
            what=" ".join(_reasons(plan.gate)),
            look=look,
            pairs=plan.gate.pairs,
            limit=plan.gate.limit,
            crossed=", ".join(one.key for one in plan.gate.crossings),
        )


def show_plan(cli: Cli, plan: Plan, document: Mapping[str, Any], *, applied: bool, command: str = "") -> None:
    """What is opened and closed; for a plan that is not applied the gate's answer too, and the command to apply it."""
    if cli.as_json:
        _, later = _later(plan, JSON_PAIRS_MAX)
        pairs = [{"source": source, "destination": destination} for source, destination in later]
        shown = {**document, **difference_document(plan.difference), "later": pairs, "gate": _gate(plan.gate)}
        print_json({**shown, "problems": problem_rows(plan.told)})
        return
    tense = "now-" if applied else ""
    show_difference(plan.difference, text(f"cli.title-{tense}opened"), text(f"cli.title-{tense}closed"))
    for problem in plan.told:
        print_text(text("cli.policy-would-suffer", {"problem": problem_text(problem)}))
    count, later = _later(plan, PAIRS_SHOWN)
    if count:
        print_text(text("cli.plan-later", {"count": count, "first": _first(later, count)}))
    if applied:
        return
    for reason in _reasons(plan.gate):
        print_text(f"! {reason}")
    key = "cli.plan-code-needed" if plan.gate.needs_yes else "cli.plan-code"
    print_text(text(key, {"code": plan.gate.code, "command": command}))


def show_difference(difference: "Difference", opened_title: str, closed_title: str) -> None:
    """Two tables for people."""
    for name, rows, title in (("opened", difference.opened, opened_title), ("closed", difference.closed, closed_title)):
        print_reaches(name, rows.first(ROWS_MAX), title, pairs=rows.pairs)


def print_reaches(
    name: str, reaches: "Sequence[Reach]", title: str | None, *, without: str = "", pairs: int | None = None
) -> None:
    """Rows of names for people: a pair's services on one line. ``pairs``: how many there are, if not all are given."""
    rows: dict[tuple[object, ...], dict[str, Any]] = {}
    for one, row in zip(reaches, reach_rows(reaches), strict=True):
        kept = rows.setdefault((one.source, one.destination), {**row, "service": ""})
        kept["service"] += f"{', ' if kept['service'] else ''}{row['service']}"
    left_out = {without} | (set() if any("apart" in row for row in rows.values()) else {"apart"})
    shown = [column for column in REACH_COLUMNS if column not in left_out]
    print_table(name, list(rows.values())[:ROWS_MAX], shown, title=title)
    if (count := len(rows) if pairs is None else pairs) > ROWS_MAX:
        print_text(text("cli.more-rows", {"count": count - ROWS_MAX}))


def reach_rows(reaches: "Sequence[Reach]") -> list[dict[str, Any]]:
    """Rows as JSON has them, one a service."""
    from rules.services import shown

    return [
        {"source": one.source, "destination": one.destination, "service": shown(one.service)}
        | ({"apart": [" → ".join(pair) for pair in one.apart]} if one.apart else {})
        for one in reaches
    ]


def as_input(problems: "Iterable[Problem]") -> InputErrors:
    """Problems of the rules as an error of the command's."""
    return InputErrors([_placed(one) for one in problems])


def problem_text(problem: "Problem") -> str:
    """Its place and its words."""
    words = text(problem.kind, problem.params)
    return f"{problem.place}: {words}" if problem.place else words


def difference_document(difference: "Difference") -> dict[str, Any]:
    """What is opened and closed, for programs: rows of at most JSON_PAIRS_MAX pairs, and how many pairs there are."""
    sides = {"opened": difference.opened, "closed": difference.closed}
    return {
        **{name: reach_rows(rows.first(JSON_PAIRS_MAX)) for name, rows in sides.items()},
        "pairs": {name: rows.pairs for name, rows in sides.items()},
        "complete": all(rows.pairs <= JSON_PAIRS_MAX for rows in sides.values()),
    }


def _gate(gate: "Assessment") -> dict[str, Any]:
    crossed = [
        {"key": one.key, "params": dict(one.params), "text": text(one.key, one.params)} for one in gate.crossings
    ]
    return {
        "needs_acknowledgement": gate.needs_yes,
        "code": gate.code,
        "pairs": gate.pairs,
        "limit": gate.limit,
        "crossed": crossed,
    }


def _reasons(gate: "Assessment") -> list[str]:
    """Why it needs a yes, a sentence each."""
    found = [text(one.key, one.params) for one in gate.crossings]
    if gate.too_many:
        first = _first(list(islice(gate.opened.ends(), PAIRS_SHOWN)), gate.pairs)
        params = {"pairs": gate.pairs, "limit": gate.limit, "first": first}
        found.insert(0, text("cli.gate-pairs", params))
    return found


def _later(plan: Plan, most: int) -> "tuple[int, list[Pair]]":
    """Pairs that get something opened not now, but at another time (statements with a validity): how many, the first
    of them."""
    if plan.gate.opened is plan.difference.opened:
        return 0, []
    pairs = plan.gate.opened.without(plan.difference.opened)
    found = list(islice(pairs, most))
    return len(found) + sum(1 for _ in pairs), found


def _first(pairs: "Sequence[Pair]", count: int) -> str:
    return ", ".join(" → ".join(pair) for pair in pairs) + (", …" if count > len(pairs) else "")


def problem_rows(problems: "Iterable[Problem]") -> list[dict[str, Any]]:
    """Problems as JSON has them."""
    return [
        {"key": one.kind, "params": dict(one.params), "place": one.place, "text": text(one.kind, one.params)}
        for one in problems
    ]


def _placed(problem: "Problem") -> InputError:
    # A problem without a place lies in the registry.
    key = "cli.policy-problem" if problem.place else "cli.inventory-problem"
    words = text(problem.kind, problem.params)
    place: dict[str, str | int | float] = {"file": problem.file, "line": problem.line, "column": problem.column}
    return InputError(key, place=problem.place, problem=words, kind=problem.kind, **place)
