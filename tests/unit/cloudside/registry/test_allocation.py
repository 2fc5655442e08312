import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from ipaddress import IPv4Network, ip_network
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudside.registry import sites, tenants
from cloudside.registry.addresses import contains, overlaps
from cloudside.registry.allocation import first_free
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database

BLOCK = ip_network("10.10.0.0/16")


@pytest.mark.parametrize(
    ("taken", "length", "free"),
    [
        ([], 24, "10.10.0.0/24"),
        (["10.10.0.0/24"], 24, "10.10.1.0/24"),
        (["10.10.1.0/24"], 24, "10.10.0.0/24"),
        (["10.10.0.0/24", "10.10.1.0/24"], 23, "10.10.2.0/23"),
        (["10.10.0.0/30"], 24, "10.10.1.0/24"),
        (["10.10.0.0/17"], 17, "10.10.128.0/17"),
        (["10.10.0.0/17"], 16, None),
        (["10.0.0.0/8"], 24, None),
        (["10.11.0.0/16"], 16, "10.10.0.0/16"),
        ([], 15, None),
        ([], 33, None),
    ],
)
def test_first_fit(taken: list[str], length: int, free: str | None) -> None:
    found = first_free(BLOCK, length, [ip_network(prefix) for prefix in taken])
    assert found == (None if free is None else ip_network(free))


def test_other_families_do_not_take_room() -> None:
    assert first_free(ip_network("2001:db8::/48"), 64, [BLOCK]) == ip_network("2001:db8::/64")


_prefixes = st.builds(
    lambda number, length: IPv4Network((BLOCK.network_address + (number >> (32 - length) << (32 - length)), length)),
    st.integers(0, 2**16 - 1),
    st.integers(18, 28),
)


@given(st.lists(_prefixes, max_size=20), st.integers(16, 28))
def test_is_the_lowest_that_fits(taken: list[IPv4Network], length: int) -> None:
    plain = next((one for one in BLOCK.subnets(new_prefix=length) if not any(overlaps(one, t) for t in taken)), None)
    found = first_free(BLOCK, length, taken)
    assert found == plain
    assert found is None or contains(BLOCK, found)


def test_parallel_writers_never_get_the_same_prefix(populated: Database) -> None:
    problems: list[Exception] = []

    def take(first: int) -> None:
        try:
            for number in range(first, first + 5):
                with populated.write() as session:
                    sites.add(session, OPERATOR, site_id=f"s{number}", tenant_id="acme", now=datetime.now(UTC))
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=take, args=(100 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with populated.read() as session:
        prefixes = [site.overlay for site in sites.every(session, OPERATOR, tenant_id="acme")]
    assert len(set(prefixes)) == len(prefixes) == 31


def _take_tenants(url: str, worker: int) -> None:
    """Runs in a process of its own, as the commands of several operators do."""
    with closing(Database(url, lock_wait_s=20)) as database:
        for number in range(3):
            name = f"t{worker}-{number}"
            with database.write() as session:
                tenants.add(session, OPERATOR, tenant_id=name, overlay=ip_network("10.0.0.0/8"), now=datetime.now(UTC))
            with database.write() as session:
                sites.add(session, OPERATOR, site_id=f"s{name}", tenant_id=name, now=datetime.now(UTC))
            with database.write() as session:
                sites.add(session, OPERATOR, site_id=f"z{name}", tenant_id="zenith", now=datetime.now(UTC))


def test_processes_never_get_blocks_or_prefixes_that_overlap(populated: Database, populated_url: str) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(_take_tenants, populated_url, worker) for worker in range(3)]:
            done.result()
    with populated.read() as session:
        blocks = [tenant.block for tenant in tenants.every(session, OPERATOR)]
        prefixes = [site.overlay for site in sites.every(session, OPERATOR)]
    assert (len(blocks), len(prefixes)) == (11, 20)
    for all_of_them in (blocks, prefixes):
        assert not [pair for pair in combinations(all_of_them, 2) if overlaps(*pair)]
