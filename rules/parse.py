"""Policy files -> Policy. Reports every mistake at once, each with its place; no text makes it raise anything else."""

from collections.abc import Iterable, Sequence

from rules.inventory import check_inventory
from rules.model import Inventory, Policy, PolicySource, endpoints
from rules.names import Names, visible
from rules.problems import PolicyError, Problem
from rules.tenant_file import COMES_WITH_TIME, TenantFile


def parse(sources: Sequence[PolicySource], inventory: Inventory) -> Policy:
    """Read policies that someone wants to put in force.

    Raises PolicyError with every problem of every file and of the inventory.
    """
    read_all = _read_all(sources, inventory)
    problems = check_inventory(inventory) + [found for _, mistakes in read_all for found in mistakes]
    if problems:
        raise PolicyError(problems)
    return _policy(file for file, _ in read_all)


def parse_stored(sources: Sequence[PolicySource], inventory: Inventory) -> tuple[Policy, tuple[Problem, ...]]:
    """Read policies that were accepted earlier, against the inventory of now. For the gateway.

    A name that is gone (its site is revoked) is passed over; groups and services mean what they meant. A tenant whose
    file no longer holds for any other reason gets nothing, and other tenants do not suffer for it. The problems are
    what to tell. Raises PolicyError only for an inconsistent inventory.
    """
    if problems := check_inventory(inventory):
        raise PolicyError(problems)
    kept: list[TenantFile] = []
    told: list[Problem] = []
    for file, mistakes in _read_all(sources, inventory):
        told.extend(mistakes)
        if all(found.kind in COMES_WITH_TIME for found in mistakes):
            kept.append(file)
    return _policy(kept), tuple(told)


def _policy(files: Iterable[TenantFile]) -> Policy:
    read = list(files)
    statements = [statement for file in read for statement in file.statements]
    nested = [one for file in read for one in file.nested]
    return Policy(
        tuple(sorted(statements, key=lambda statement: statement.id)),
        tuple(sorted(nested, key=lambda one: (one.tenant, one.group))),
    )


def _read_all(sources: Sequence[PolicySource], inventory: Inventory) -> list[tuple[TenantFile, list[Problem]]]:
    table = visible(endpoints(inventory).values())
    shared = table.get("", {})
    results: list[tuple[TenantFile, list[Problem]]] = []
    seen: dict[str, str] = {}
    for source in sources:
        reader = TenantFile(source, Names(table.get(source.tenant, {}), shared))
        reader.read(known_tenant=source.tenant in inventory.tenants)
        if (earlier := seen.get(source.tenant)) is not None:
            params = {"tenant": source.tenant, "first": earlier}
            reader.problems.append(Problem("rules.two-files", params, source.file_name, 1, 1))
        seen[source.tenant] = source.file_name
        results.append((reader, reader.problems))
    return results
