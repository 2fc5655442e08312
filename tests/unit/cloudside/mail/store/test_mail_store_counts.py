"""Counts of recipients, limits decided in the accepting transaction, and what watchers ask."""

import asyncio

import pytest
from queue_places import NOW, message

from cloudside.mail.model import Action, Kind, Limit, LimitExceededError, Scope, State, Traffic
from cloudside.mail.store.accepting import DAY_HOURS
from cloudside.mail.store.queue import hour_of

HOUR = hour_of(NOW)


def limit(action, *, scope=Scope.SITE, name="tokyo-1", hourly=None, daily=None):
    return Limit(scope, name, hourly, daily, action)


async def test_recipients_are_counted_by_tenant_site_and_device_over_restarts(place):
    queue = place.open()
    assert (await queue.accept(message(1, recipients=("a@x.test", "b@x.test")))).hour_count == 2
    await queue.accept(message(2, origin="osaka-1", device="plc"))
    await queue.accept(message(3, origin="server/web", tenant="", device="10.254.0.10"))
    await queue.accept(message(4, kind=Kind.NOTICE))
    queue.close()
    queue = place.open()
    assert (await queue.accept(message(5))).hour_count == 3
    assert (await queue.accept(message(6, at=NOW + 3600))).hour_count == 1
    assert await queue.counts(Scope.SITE, HOUR, HOUR + 1) == {"tokyo-1": 3, "osaka-1": 1, "server/web": 1}
    assert await queue.counts(Scope.TENANT, HOUR, HOUR + 1) == {"acme": 4}
    assert await queue.counts(Scope.DEVICE, HOUR, HOUR + 2) == {"10.0.0.1": 4, "plc": 1, "10.254.0.10": 1}
    found = await queue.hours(Scope.SITE, ["tokyo-1", "kobe-1"], HOUR)
    assert found == {"tokyo-1": {HOUR: 3, HOUR + 1: 1}}
    assert await queue.hours(Scope.SITE, (), HOUR) == {}
    queue.close()


async def test_a_limit_that_notifies_changes_nothing(queue):
    new = message(1, recipients=("a@x.test",) * 5, limits=(limit(Action.NOTIFY, hourly=1, daily=1),))
    assert (await queue.accept(new)).held == ""


async def test_above_a_limit_that_holds_mail_is_taken_and_waits(queue):
    limits = (limit(Action.HOLD, hourly=2),)
    held = [(await queue.accept(message(number, limits=limits))).held for number in (1, 2, 3)]
    assert held == ["", "", "limit: site tokyo-1 3/2 in an hour"]
    assert await queue.states() == {"queued": 2, "held": 1}
    assert (await queue.accept(message(4, at=NOW + 3600, limits=limits))).held == ""


async def test_above_a_limit_that_refuses_nothing_is_stored_nor_counted(queue):
    holding = limit(Action.HOLD, hourly=0)
    limits = (holding, limit(Action.REFUSE, scope=Scope.DEVICE, name="10.0.0.1", hourly=1))
    assert (await queue.accept(message(1, limits=limits))).held.startswith("limit: ")
    with pytest.raises(LimitExceededError) as refused:
        await queue.accept(message(2, limits=limits))
    assert refused.value.params == {"scope": "device", "name": "10.0.0.1", "why": "device 10.0.0.1 2/1 in an hour"}
    assert await queue.states() == {"held": 1}
    assert await queue.counts(Scope.DEVICE, HOUR, HOUR + 1) == {"10.0.0.1": 1}
    assert (await queue.accept(message(3, device="10.0.0.2", limits=limits))).taken


async def test_a_day_is_the_last_24_clock_hours(queue):
    limits = (limit(Action.REFUSE, scope=Scope.TENANT, name="acme", daily=2),)
    await queue.accept(message(1, limits=limits))
    await queue.accept(message(2, at=NOW + 3600, limits=limits))
    with pytest.raises(LimitExceededError):
        await queue.accept(message(3, at=NOW + (DAY_HOURS - 1) * 3600, limits=limits))
    await queue.accept(message(3, at=NOW + DAY_HOURS * 3600, limits=limits))


async def test_many_at_once_do_not_get_past_a_limit(queue):
    limits = (limit(Action.HOLD, hourly=10),)
    receipts = await asyncio.gather(
        *(
            queue.accept(message(number, device=f"d{number % 7}", limits=limits, origin="tokyo-1", tenant="acme"))
            for number in range(1, 61)
        )
    )
    assert sum(not receipt.held for receipt in receipts) == 10
    assert sorted(receipt.hour_count for receipt in receipts) == list(range(1, 61))


async def test_many_tenants_and_sites_at_once_are_counted_right(queue):
    await asyncio.gather(
        *(
            queue.accept(message(number, tenant=f"t{number % 2}", origin=f"s{number % 6}", device=f"d{number % 30}"))
            for number in range(1, 301)
        )
    )
    assert await queue.counts(Scope.TENANT, HOUR, HOUR + 1) == {"t0": 150, "t1": 150}
    assert await queue.counts(Scope.SITE, HOUR, HOUR + 1) == {f"s{number}": 50 for number in range(6)}


async def test_traffic_names_the_most_frequent(queue):
    for number in range(5):
        await queue.accept(message(number + 1, recipients=("a@x.test",) if number else ("b@x.test",), at=NOW + number))
    await queue.accept(message(9, origin="osaka-1", tenant="zenith", device="plc", at=NOW))
    expected = Traffic((("a@x.test", 4), ("b@x.test", 1)), (("10.0.0.1", 5),), ("s5", "s4", "s3"))
    for scope, name in ((Scope.SITE, "tokyo-1"), (Scope.TENANT, "acme"), (Scope.DEVICE, "10.0.0.1")):
        assert await queue.traffic(scope, name, NOW) == expected
    assert (await queue.traffic(Scope.SITE, "tokyo-1", NOW + 4)).subjects == ("s5",)


async def test_outcomes_domains_and_sources_are_of_one_origin_and_time(queue):
    await queue.accept(message(1, recipients=("a@X.test", "b@x.test", "c@y.test")))
    await queue.accept(message(2, source="10.0.0.2"))
    await queue.accept(message(3, origin="osaka-1"))
    for attempt in await queue.claim(NOW, 3):
        await queue.fail(
            attempt.original.id, attempt.index, State.BOUNCED, NOW, "550", (), permanent=attempt.index == 0
        )
    assert await queue.outcomes("tokyo-1", NOW) == {"bounced": 3, "queued": 1}
    assert await queue.outcomes("tokyo-1", NOW + 1) == {}
    assert await queue.domains("tokyo-1", NOW, NOW + 1) == {"x.test": 3, "y.test": 1}
    assert await queue.sources("tokyo-1", NOW, NOW + 1) == {"10.0.0.1": 3, "10.0.0.2": 1}
    assert await queue.sources("tokyo-1", NOW - 1, NOW) == {}


async def test_the_newest_mail_of_each_origin_is_known_after_the_mail_is_forgotten(queue):
    await queue.accept(message(1, at=NOW + 3))
    await queue.accept(message(2, at=NOW - 3 * 3600))
    await queue.accept(message(3, origin="osaka-1", at=NOW + 7))
    await queue.accept(message(4, kind=Kind.NOTICE))
    assert await queue.last_mail() == {"tokyo-1": NOW + 3, "osaka-1": NOW + 7}
    for attempt in await queue.claim(NOW + 9, 10):
        await queue.delivered(attempt, NOW + 9, "250")
    await queue.purge(NOW + 99, NOW - 86400)
    end_of_hour = (HOUR + 1) * 3600 - 1.0
    assert await queue.last_mail() == {"tokyo-1": end_of_hour, "osaka-1": end_of_hour}
