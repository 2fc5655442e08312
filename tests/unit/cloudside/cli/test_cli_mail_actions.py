"""`kyoten mail hold`, `release`, `retry`, `drop`: what changes, what is asked, and whose mail nobody else touches."""

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mailed_queue import Mail, fill, new_message, standing
from structlog.testing import capture_logs

from cloudside.cli import mail_moves
from cloudside.mail.store import control
from cloudside.mail.store.queue import Queue

Kyoten = Callable[..., Any]
ACME, BIRCH = ("--tenant", "acme"), ("--tenant", "birch")
ONE, TWO, THREE, FOUR, FIVE = (f"{number:016x}" for number in range(1, 6))
UNTOUCHED = {1: "delivered", 2: "queued", 3: "queued", 4: "held", 5: "queued"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "mail"


@pytest.fixture
def mailed(world: Kyoten, directory: Path) -> Kyoten:
    fill(directory)
    return world


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What a person types when asked."""
    return lambda words: monkeypatch.setattr("sys.stdin", io.StringIO(words))


def test_one_message_is_held_and_released_without_a_question(mailed: Kyoten, directory: Path) -> None:
    document = mailed("mail", "hold", TWO, "--reason", "odd", "--json").document
    assert document == {"changed": 2, "new_mail": "unchanged"}
    assert standing(directory) == UNTOUCHED | {2: "held"}
    assert mailed("mail", "holds", "--json").document["mail-holds"] == []
    assert "by hand: odd" in mailed("mail", "trace", TWO).out
    assert "Released 2" in mailed("mail", "release", TWO).out
    assert standing(directory) == UNTOUCHED
    assert "Trying 2" in mailed("mail", "retry", TWO).out
    assert mailed("mail", "drop", TWO, "--reason", "spam", "--json").document == {"changed": 2}
    assert standing(directory) == UNTOUCHED | {2: "dropped"}
    assert "alice: spam" in mailed("mail", "trace", TWO).out


def test_several_messages_are_asked_for(mailed: Kyoten, directory: Path, answer: Callable[[str], None]) -> None:
    words = ("mail", "drop", "--state", "queued", "--reason", "spam")
    for typed in ("n\n", ""):
        answer(typed)
        refused = mailed(*words, "--json", status=130)
        assert "3 messages (4 recipients)" in refused.err and "nobody is told" in refused.err
        assert '"key": "cli.not-confirmed"' in refused.err
        assert standing(directory) == UNTOUCHED
    answer("y\n")
    assert "Dropped 4" in mailed(*words).out
    assert standing(directory) == UNTOUCHED | {2: "dropped", 3: "dropped", 5: "dropped"}


def test_yes_asks_nothing(mailed: Kyoten, directory: Path) -> None:
    assert mailed("mail", "retry", "--state", "queued", "--yes", "--json").document == {"changed": 4}
    assert mailed("mail", "hold", "a@x.test", "--reason", "r", "--yes", "--json").document["changed"] == 3
    assert standing(directory)[3] == "held"


def test_a_whole_site_is_held_with_its_new_mail_and_released(mailed: Kyoten, directory: Path) -> None:
    document = mailed("mail", "hold", "--site", "tokyo-1", "--reason", "password stolen", "--json").document
    assert document == {"changed": 2, "new_mail": "held"}
    assert standing(directory) == UNTOUCHED | {2: "held"}
    (row,) = mailed("mail", "holds", "--json").document["mail-holds"]
    assert (row["scope"], row["name"], row["tenant"], row["author"]) == ("site", "tokyo-1", "acme", "alice")
    assert (row["reason"], row["imposed"]) == ("password stolen", True)
    assert "password stolen" in mailed("mail", "holds").out
    # Nothing waits any more, and it is no mistake to hold what comes.
    assert mailed("mail", "hold", "tokyo-1", "--reason", "still", "--json").document["changed"] == 0
    document = mailed("mail", "release", "--site", "tokyo-1", "--json").document
    assert document == {"changed": 2, "new_mail": "released", "still_held": []}
    assert standing(directory) == UNTOUCHED
    assert mailed("mail", "holds", "--json").document["mail-holds"] == []


@pytest.mark.parametrize(
    ("words", "scope", "name", "held"),
    [
        (("--tenant", "birch"), "tenant", "birch", {3: "held"}),
        (("--device", "10.0.0.9"), "device", "10.0.0.9", {}),
        (("server/web",), "site", "server/web", {5: "held"}),
    ],
)
def test_tenants_devices_and_servers_are_held_too(
    mailed: Kyoten, directory: Path, words: tuple[str, ...], scope: str, name: str, held: dict[int, str]
) -> None:
    mailed("mail", "hold", *words, "--reason", "r")
    (row,) = mailed("mail", "holds", "--json").document["mail-holds"]
    assert (row["scope"], row["name"]) == (scope, name)
    assert standing(directory) == UNTOUCHED | held
    mailed("mail", "release", *words)
    assert mailed("mail", "holds", "--json").document["mail-holds"] == []
    assert standing(directory) == UNTOUCHED


@pytest.mark.parametrize(
    "narrower",
    [
        ("--only-waiting",),
        ("--state", "queued"),
        ("--since", "2027-01-01"),
        ("--until", "2028-01-01"),
        ("--address", "a@x.test"),
    ],
)
def test_anything_narrower_leaves_new_mail_alone(mailed: Kyoten, narrower: tuple[str, ...]) -> None:
    document = mailed("mail", "hold", "--site", "tokyo-1", *narrower, "--reason", "r", "--json").document
    assert document["new_mail"] == "unchanged" and document["changed"] >= 1
    assert mailed("mail", "holds", "--json").document["mail-holds"] == []


def test_what_a_wider_hold_keeps_is_not_released_with_the_narrower(mailed: Kyoten, directory: Path) -> None:
    mailed("mail", "hold", "--tenant", "acme", "--reason", "unpaid", "--yes")
    mailed("mail", "hold", "--site", "tokyo-1", "--reason", "flood")
    assert "tenant acme is held as a whole (unpaid)" in mailed("mail", "release", "--site", "tokyo-1").out
    assert standing(directory) == UNTOUCHED | {2: "held"}
    error = mailed("mail", "release", "--site", "tokyo-1", "--json", status=3).error
    assert (error["key"], error["params"]["name"]) == ("cli.mail-held-wider", "acme")
    # Whoever means what waits now, and says so, gets it.
    assert mailed("mail", "release", "tokyo-1", "--state", "held", "--json").document["changed"] == 2
    assert [row["name"] for row in mailed("mail", "holds", "--json").document["mail-holds"]] == ["acme"]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("hold", "--reason", "r"), "cli.mail-what"),
        (("release",), "cli.mail-what"),
        (("retry",), "cli.mail-what"),
        (("drop", "--reason", "r", "--yes"), "cli.mail-what"),
        (("hold", TWO, "--reason", " "), "registry.mail-hold-reason"),
        (("drop", TWO, "--reason", ""), "registry.mail-hold-reason"),
        (("hold", "--site", "tokio-1", "--reason", "r"), "registry.unknown-site"),
        (("hold", "--device", "nobody", "--reason", "r"), "registry.unknown-smtp-user"),
        (("hold", "server/wep", "--reason", "r"), "registry.unknown-server"),
        (("release", "--site", "tokio-1"), "registry.unknown-site"),
        (("release", "--site", "tokyo-1"), "cli.mail-nothing-to-release"),
        (("hold", ONE, "--reason", "r"), "cli.mail-nothing-to-hold"),
        (("hold", FOUR, "--reason", "r"), "cli.mail-nothing-to-hold"),
        (("retry", FOUR), "cli.mail-nothing-to-retry"),
        (("drop", ONE, "--reason", "r"), "cli.mail-nothing-to-drop"),
        (("retry", "--state", "held"), "cli.mail-nothing-to-retry"),
        (("retry", "00000000000000ff"), "mail.nothing-found"),
        (("retry", "--state", "gone"), "cli.bad-mail-state"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(
    mailed: Kyoten, directory: Path, words: tuple[str, ...], key: str
) -> None:
    assert mailed("mail", *words, "--json", status=2).error["key"] == key
    assert standing(directory) == UNTOUCHED
    assert mailed("mail", "holds", "--json").document["mail-holds"] == []


def test_a_tenant_acts_on_its_own_mail_only(mailed: Kyoten, directory: Path) -> None:
    for words in (("hold", TWO, "--reason", "r"), ("release", FOUR), ("retry", TWO), ("drop", TWO, "--reason", "r")):
        assert mailed(*BIRCH, "mail", *words, "--json", status=2).error["key"] == "mail.nothing-found"
    error = mailed(*BIRCH, "mail", "hold", "--site", "tokyo-1", "--reason", "r", "--json", status=2).error
    assert (error["key"], "tokyo" in error["params"]["known"]) == ("registry.unknown-site", False)
    assert mailed(*BIRCH, "mail", "hold", "server/web", "--reason", "r", "--json", status=3).error["key"] == (
        "registry.operators-only"
    )
    mailed(*BIRCH, "mail", "drop", "--state", "queued", "--reason", "r")  # one message is its own
    assert standing(directory) == UNTOUCHED | {3: "dropped"}


def test_what_operators_hold_a_tenant_sees_and_cannot_release(mailed: Kyoten, directory: Path) -> None:
    mailed("mail", "hold", "--site", "tokyo-1", "--reason", "flood")
    (row,) = mailed(*ACME, "mail", "holds", "--json").document["mail-holds"]
    assert row["imposed"] is True
    assert mailed(*BIRCH, "mail", "holds", "--json").document["mail-holds"] == []
    for words in (("--site", "tokyo-1"), (TWO,), ("--state", "held"), ("--tenant", "acme")):
        error = mailed(*ACME, "mail", "release", *words, "--yes", "--json", status=3).error
        assert (error["key"], error["params"]["reason"]) == ("registry.mail-hold-imposed", "flood")
    assert standing(directory) == UNTOUCHED | {2: "held"}
    assert mailed(*ACME, "mail", "release", "--site", "osaka-1", "--json").document["changed"] == 1
    assert standing(directory) == UNTOUCHED | {2: "held", 4: "queued"}


def test_a_tenants_own_hold(mailed: Kyoten, directory: Path) -> None:
    mailed(*ACME, "mail", "hold", "--tenant", "acme", "--reason", "tests")
    assert standing(directory) == UNTOUCHED | {2: "held"}
    document = mailed(*ACME, "mail", "release", "--tenant", "acme", "--yes", "--json").document
    assert (document["changed"], document["new_mail"]) == (3, "released")
    assert standing(directory) == UNTOUCHED | {4: "queued"}


def test_what_comes_is_held_before_a_relay_ever_ran(world: Kyoten) -> None:
    document = world("mail", "hold", "--site", "tokyo-1", "--reason", "not yet", "--json").document
    assert document == {"changed": 0, "new_mail": "held"}
    assert world("mail", "hold", TWO, "--reason", "r", "--json", status=5).error["key"] == "mail.no-queue"
    assert world("mail", "release", "--site", "tokyo-1", "--json").document["new_mail"] == "released"


@pytest.fixture
def running(directory: Path, tmp_path: Path) -> Iterator[Callable[[Mail], None]]:
    """A relay's queue behind its socket; gives what it takes mail with."""
    fill(directory)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> tuple[Queue, asyncio.Event, asyncio.Task[None]]:
        queue, stop = Queue(directory, reserve_bytes=0), asyncio.Event()
        return queue, stop, asyncio.create_task(control.serve(queue, tmp_path / control.FILE_NAME, stop))

    async def end() -> None:
        stop.set()
        await serving
        queue.close()

    def take(mail: Mail) -> None:
        asyncio.run_coroutine_threadsafe(queue.accept(new_message(mail)), loop).result()

    queue, stop, serving = asyncio.run_coroutine_threadsafe(begin(), loop).result()
    wait_for(tmp_path / control.FILE_NAME)
    with capture_logs():  # they would stand among what the command prints
        yield take
    asyncio.run_coroutine_threadsafe(end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 5
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_running_relay_takes_meanwhile_is_not_left_behind(
    world: Kyoten, running: Callable[[Mail], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter((
        Mail(6, "acme", "tokyo-1", "plc-1", ("late@x.test",), "before the relay knows of the hold"),
        Mail(7, "acme", "tokyo-1", "plc-1", ("later@x.test",), "before it knows of the release", held="hold: flood"),
    ))  # fmt: skip
    waits: list[float] = []

    def meanwhile(seconds: float) -> None:
        if seconds:
            waits.append(seconds)
            running(next(taken))

    monkeypatch.setattr("cloudside.cli.mail_moves.time.sleep", meanwhile)
    assert world("mail", "hold", "tokyo-1", "--reason", "flood", "--json").document["changed"] == 3
    assert [entry["state"] for entry in world("mail", "queue", "tokyo-1", "--json").document["waiting"]] == ["held"] * 3
    assert world("mail", "release", "tokyo-1", "--yes", "--json").document["changed"] == 4
    assert {entry["state"] for entry in world("mail", "queue", "tokyo-1", "--json").document["waiting"]} == {"queued"}
    assert waits == [mail_moves.SETTLE_S] * 2
    assert mail_moves.SETTLE_S > 2  # it looks each second, and a look takes a moment
