"""Policy files -> Policy. Reports every mistake at once, each with its place; no text makes it raise anything else."""

from collections.abc import Iterable, Sequence

from rules.inventory import check_inventory
from rules.model import Inventory, Platform, PlatformSource, Policy, PolicySource, endpoints
from rules.names import Names, visible
from rules.platform_file import PlatformFile
from rules.problems import PolicyError, Problem
from rules.tenant_file import COMES_WITH_TIME, TenantFile


def parse(sources: Sequence[PolicySource], inventory: Inventory, platform: PlatformSource | None = None) -> Policy:
    """Read policies that someone wants to put in force.

    Raises PolicyError with every problem of every file and of the inventory.
    """
    above, problems = _read_platform(platform, inventory)
    read_all = _read_all(sources, inventory, above)
    problems += check_inventory(inventory) + [found for file in read_all for found in file.problems]
    if problems:
        raise PolicyError(problems)
    return _policy(read_all, above)


def parse_stored(
    sources: Sequence[PolicySource], inventory: Inventory, platform: PlatformSource | None = None
) -> tuple[Policy, tuple[Problem, ...]]:
    """Read policies that were accepted earlier, against the inventory of now. For the gateway.

    A name that is gone (its site is revoked) is passed over; groups and services mean what they meant. A tenant whose
    file no longer holds for any other reason gets nothing, and other tenants do not suffer for it; if the platform's
    does not, nobody gets anything. The problems are what to tell. Raises PolicyError only for an inconsistent
    inventory.
    """
    if problems := check_inventory(inventory):
        raise PolicyError(problems)
    above, told = _read_platform(platform, inventory)
    if any(found.kind not in COMES_WITH_TIME | {"rules.no-such-tenant"} for found in told):
        return Policy({}), tuple(told)
    kept: list[TenantFile] = []
    for file in _read_all(sources, inventory, above):
        told.extend(file.problems)
        if all(found.kind in COMES_WITH_TIME for found in file.problems):
            kept.append(file)
    return _policy(kept, above), tuple(told)


def _read_platform(source: PlatformSource | None, inventory: Inventory) -> tuple[Platform, list[Problem]]:
    if source is None:
        return Platform(), []
    shared = {server.name for server in inventory.servers if server.tenant is None}
    file = PlatformFile(shared, inventory.tenants)
    return file.read(source), file.problems


def _policy(files: Iterable[TenantFile], platform: Platform) -> Policy:
    own = {file.tenant: file.policy() for file in files}
    return Policy({tenant: own[tenant] for tenant in sorted(own)}, platform)


def _read_all(sources: Sequence[PolicySource], inventory: Inventory, platform: Platform) -> list[TenantFile]:
    table = visible(endpoints(inventory).values())
    shared = table.get("", {})
    files: list[TenantFile] = []
    seen: dict[str, str] = {}
    for source in sources:
        file = TenantFile(source, Names(table.get(source.tenant, {}), shared), platform)
        file.read(known_tenant=source.tenant in inventory.tenants)
        if (earlier := seen.get(source.tenant)) is not None:
            params = {"tenant": source.tenant, "first": earlier}
            file.problems.append(Problem("rules.two-files", params, source.file_name, 1, 1))
        seen[source.tenant] = source.file_name
        files.append(file)
    return files
