"""Calls between the relay's processes."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cloudside.errors import UnavailableError
from cloudside.mail.links import Link, Method, attach
from cloudside.mail.store.engine import StorageFullError


@asynccontextmanager
async def linked(**methods: Method) -> AsyncIterator[tuple[Link, Link]]:
    here, there = socket.socketpair()
    caller, answerer = await attach(here), await attach(there, methods)
    try:
        yield caller, answerer
    finally:
        caller.close()
        answerer.close()
        await caller.closed.wait()
        await answerer.closed.wait()


async def test_many_calls_at_once_get_their_own_answers() -> None:
    async def slow_echo(value: int, content: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(0.001 * (value % 7))
        return value, content

    contents = [os.urandom(value * 997 % 90_000) for value in range(100)]
    async with linked(echo=slow_echo) as (caller, _):
        answers = await asyncio.gather(*(caller.call("echo", value, contents[value]) for value in range(100)))
    assert answers == [(value, contents[value]) for value in range(100)]


async def test_our_errors_arrive_as_themselves() -> None:
    async def full() -> None:
        raise StorageFullError("mail.disk-full", path="/queue")

    async with linked(full=full) as (caller, _):
        with pytest.raises(StorageFullError) as error:
            await caller.call("full")
    assert error.value.key == "mail.disk-full" and error.value.params == {"path": "/queue"}


async def test_a_bug_at_the_other_end_is_an_error_and_no_silence() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    async with linked(broken=broken) as (caller, _):
        with pytest.raises(UnavailableError) as error:
            await caller.call("broken")
    assert error.value.key == "mail.link-crashed"


async def test_a_dead_other_end_ends_the_waiting() -> None:
    async def never() -> None:
        await asyncio.sleep(60)

    async with linked(never=never) as (caller, answerer):
        waiting = asyncio.create_task(caller.call("never"))
        await asyncio.sleep(0.01)
        answerer.close()
        with pytest.raises(UnavailableError):
            await waiting
        await caller.closed.wait()
        with pytest.raises(UnavailableError):
            await caller.call("never")


async def test_telling_needs_no_answer_and_keeps_the_order() -> None:
    heard: list[int] = []

    async def hear(value: int) -> None:
        heard.append(value)

    async with linked(hear=hear) as (caller, _):
        for value in range(50):
            caller.tell("hear", value)
        while len(heard) < 50:
            await asyncio.sleep(0.001)
    assert heard == list(range(50))
