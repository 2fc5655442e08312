"""Routers hand over log pieces, results and crash reports: whose, in order, within bounds, whatever they send."""

import gzip
import hashlib
import json
from datetime import timedelta
from typing import Any

import jsonschema
import pytest
from fleet_cloud import NOW, Cloud, Endpoint, Enrolled, heartbeat_document

from cloudside.access import log_pulls as pulls
from cloudside.errors import InputError
from cloudside.fleet import requests, schema
from cloudside.fleet.protocol import PIECE_MAX_BYTES
from cloudside.registry import audit, crash_reports, log_pulls, site_commands
from cloudside.registry.callers import OPERATOR

BEAT = "/agent/v1/heartbeat"
FEATURES = ["log-pulls", "commands", "crashes"]
TEXT = b"".join(b"agent| 2026-11-22T09:00:%02dZ line %d\n" % (n % 60, n) for n in range(500))
PACKED = gzip.compress(TEXT, mtime=0)
HASH = hashlib.sha256(PACKED).hexdigest()


def ask(cloud: Cloud, site: str = "tokyo-1", *, follow: bool = False, lines: int = 0) -> str:
    wanted = pulls.Wanted(("agent",), None, None, lines, follow=follow, anyway=False)
    with cloud.database.write() as session:
        return pulls.ask(session, OPERATOR, site, wanted, person="ann", now=cloud.now).id


def order(cloud: Cloud, site: str = "tokyo-1", *, command_id: str = "c" * 32) -> str:
    with cloud.database.write("ann") as session:
        site_commands.ask(
            session, OPERATOR, command_id=command_id, site_id=site, name="ping", arguments={"address": "192.0.2.1"},
            reason="why not", timeout_s=30, requested_by="ann", expires_at=cloud.now + timedelta(minutes=10),
            now=cloud.now,
        )  # fmt: skip
    return command_id


async def beat(endpoint: Endpoint, router: Enrolled, **changes: Any) -> Any:
    changes.setdefault("features", FEATURES)
    answer = await endpoint.post(BEAT, heartbeat_document(router.site, **changes), router=router)
    assert answer.status == 200, answer
    document = json.loads(schema.schema_text())
    jsonschema.validate(answer.document, {**document, "$ref": "#/$defs/HeartbeatAnswer"})
    return answer.document


async def piece(
    endpoint: Endpoint,
    router: Enrolled,
    pull: str,
    offset: int,
    content: bytes,
    *,
    total: int = len(PACKED),
    sha256: str = HASH,
) -> Any:
    path = f"/agent/v1/log-pulls/{pull}/pieces?offset={offset}&total={total}&sha256={sha256}"
    return await endpoint.post(path, content, router=router)


async def test_a_log_comes_in_pieces_and_is_read(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    pull = ask(cloud, lines=9)
    (asked,) = (await beat(endpoint, tokyo))["log_pulls"]
    assert (asked["id"], asked["received"], asked["units"], asked["lines"]) == (pull, 0, ["agent"], 9)
    half = len(PACKED) // 2
    first = await piece(endpoint, tokyo, pull, 0, PACKED[:half])
    assert first.document == {"received": half, "wanted": True}
    again = await piece(endpoint, tokyo, pull, 0, PACKED[:half])
    assert again.document == {"received": half, "wanted": True}, "a piece whose answer was lost counts twice"
    assert (await beat(endpoint, tokyo))["log_pulls"][0]["received"] == half
    hole = await piece(endpoint, tokyo, pull, half + 9, PACKED[half + 9 :])
    assert hole.document == {"received": half, "wanted": True}, "a piece with a hole before it was taken"
    last = await piece(endpoint, tokyo, pull, half, PACKED[half:])
    assert last.document == {"received": len(PACKED), "wanted": False}
    assert (await beat(endpoint, tokyo))["log_pulls"] == []
    with cloud.database.read() as session:
        assert b"".join(pulls.text(session, OPERATOR, pull)) == TEXT
        assert b"".join(pulls.packed(session, OPERATOR, pull)) == PACKED
        changes = [entry.after for entry in audit.latest(session, OPERATOR, most=9, subject=f"tokyo-1/{pull}")]
    assert [list(after or {}) for after in changes[:1]] == [["state", "ended_at"]] and len(changes) == 2


async def test_a_log_packed_anew_replaces_what_was_there(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    pull = ask(cloud)
    old = gzip.compress(b"old\n" * 99, mtime=0)
    await piece(endpoint, tokyo, pull, 0, old[:20], total=len(old), sha256=hashlib.sha256(old).hexdigest())
    jumped = await piece(endpoint, tokyo, pull, 20, PACKED[20:])
    assert jumped.document == {"received": 0, "wanted": True}
    assert (await piece(endpoint, tokyo, pull, 0, PACKED)).document["wanted"] is False


@pytest.mark.parametrize("wrong", ["hash", "no gzip", "two members"])
async def test_what_is_not_what_was_announced_is_asked_for_again(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, wrong: str
) -> None:
    pull = ask(cloud)
    content = {"hash": PACKED, "no gzip": b"plain text", "two members": PACKED + PACKED}[wrong]
    sha256 = "0" * 64 if wrong == "hash" else hashlib.sha256(content).hexdigest()
    answer = await piece(endpoint, tokyo, pull, 0, content, total=len(content), sha256=sha256)
    assert answer.document == {"received": 0, "wanted": True}
    assert (await piece(endpoint, tokyo, pull, 0, PACKED)).document["wanted"] is False


async def test_a_pull_is_the_sites_own_and_within_its_bounds(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, kobe: Enrolled
) -> None:
    pull = ask(cloud)
    foreign = await piece(endpoint, kobe, pull, 0, PACKED)
    unknown = await piece(endpoint, kobe, "0" * 32, 0, PACKED)
    assert (foreign.status, foreign.document["key"]) == (unknown.status, unknown.document["key"])
    assert foreign.document["key"] == "registry.unknown-log-request"
    stranger = await endpoint.post(f"/agent/v1/log-pulls/{pull}/state", "{}", router=kobe)
    assert stranger.status == 422
    for offset, total, content in ((0, 10, b"x" * 11), (9, 10, b"xx"), (0, 99_000_000, b"x"), (0, 10, b"")):
        refused = await piece(endpoint, tokyo, pull, offset, content, total=total)
        assert (refused.status, refused.document["key"]) == (422, "logs.too-much"), (offset, total)
    for query in ("", "?offset=-1&total=1&sha256=", "?offset=1&total=x", "?offset=1&total=1&sha256=zz"):
        refused = await endpoint.post(f"/agent/v1/log-pulls/{pull}/pieces{query}", b"x", router=tokyo)
        assert (refused.status, refused.document["key"]) == (422, "fleet.bad-document"), query
    huge = await piece(endpoint, tokyo, pull, 0, bytes(PIECE_MAX_BYTES + 1))
    assert huge.status == 413
    with cloud.database.read() as session:
        assert log_pulls.received(session, OPERATOR, pull) == 0


async def test_a_router_that_waits_or_gives_up_is_told_of(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    pull = ask(cloud)
    path = f"/agent/v1/log-pulls/{pull}/state"
    problem = {"key": "agent.log-waits-for-line", "params": {"size": 9, "most": 8}}
    waits = json.dumps({"state": "waiting", "problem": problem})
    assert (await endpoint.post(path, waits, router=tokyo)).status == 204
    with cloud.database.read() as session:
        assert log_pulls.upload_of(session, OPERATOR, pull).waits == problem
    failed = json.dumps({"state": "failed", "problem": problem})
    assert (await endpoint.post(path, failed, router=tokyo)).status == 204
    with cloud.database.read() as session:
        assert log_pulls.get(session, OPERATOR, pull).state == "failed"
    assert (await beat(endpoint, tokyo))["log_pulls"] == []
    assert (await piece(endpoint, tokyo, pull, 0, PACKED)).document["wanted"] is False


async def test_a_followed_log_is_wanted_while_somebody_looks_on(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled
) -> None:
    pull = ask(cloud, follow=True)
    answer = await beat(endpoint, tokyo)
    assert answer["log_pulls"][0]["follow"] and answer["heartbeat_s"] == requests.ATTENDED_WIRED_S
    one, two = gzip.compress(b"one\n"), gzip.compress(b"two\n")
    first = await piece(endpoint, tokyo, pull, 0, one, total=0, sha256="")
    assert first.document == {"received": len(one), "wanted": True}
    assert (await piece(endpoint, tokyo, pull, len(one), b"no gzip", total=0, sha256="")).status == 422
    second = await piece(endpoint, tokyo, pull, len(one), two, total=0, sha256="")
    assert second.document["wanted"] is True
    seen = pulls.follow(cloud.database, OPERATOR, pull, now=lambda: cloud.now)
    assert [next(seen), next(seen)] == [b"one\n", b"two\n"]
    cloud.now = NOW + pulls.LEASE + timedelta(seconds=1)
    assert (await beat(endpoint, tokyo))["log_pulls"] == []
    late = await piece(endpoint, tokyo, pull, len(one + two), one, total=0, sha256="")
    assert late.document["wanted"] is False
    requests.end_overdue(cloud.database, keep_days=30, now=cloud.now)
    with cloud.database.read() as session:
        assert log_pulls.get(session, OPERATOR, pull).state == "done"
    bomb = gzip.compress(bytes(30_000_000), compresslevel=1)
    other = ask(cloud, follow=True)
    assert (await piece(endpoint, tokyo, other, 0, bomb, total=0, sha256="")).document["key"] == "fleet.log-too-large"


async def test_a_command_is_asked_until_it_is_answered_and_the_first_answer_stays(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, kobe: Enrolled
) -> None:
    command = order(cloud)
    asked = await beat(endpoint, tokyo)
    assert asked["commands"] == [
        {"id": command, "name": "ping", "arguments": {"address": "192.0.2.1"}, "timeout_s": 30.0, "expires_s": 600.0}
    ]
    assert asked["heartbeat_s"] == requests.ATTENDED_WIRED_S
    assert (await beat(endpoint, kobe))["commands"] == []
    result = {
        "state": "done",
        "status": 1,
        "output": "no\0 answer",
        "began_at": "2026-11-22T09:00:00Z",
        "duration_s": 2,
    }
    path = f"/agent/v1/commands/{command}"
    assert (await endpoint.post(path, json.dumps(result), router=kobe)).status == 422, "another site's command"
    for body in (result, {**result, "output": "changed"}):
        assert (await endpoint.post(path, json.dumps(body), router=tokyo)).status == 204
    assert (await beat(endpoint, tokyo))["commands"] == []
    with cloud.database.read() as session:
        kept = site_commands.get(session, OPERATOR, command)
        entries = audit.latest(session, OPERATOR, most=9, subject=f"tokyo-1/{command}")
    assert (kept.state, kept.status, kept.output, kept.duration_ms) == ("done", 1, "no\ufffd answer", 2000)
    assert [(entry.actor, entry.action) for entry in entries] == [("router tokyo-1", "changed"), ("ann", "added")]
    assert entries[0].after is not None and entries[0].after["output"].startswith("sha256:")
    assert entries[1].after is not None and entries[1].after["reason"] == "why not"


@pytest.mark.parametrize(
    "body",
    ["", "[]", '{"state": "well"}', '{"state": "done", "began_at": "soon"}', '{"state": "done", "duration_s": NaN}',
     '{"state": "done", "output": ' + json.dumps("x" * 70_000) + "}"],
)  # fmt: skip
async def test_a_result_that_is_none_is_refused(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, body: str) -> None:
    command = order(cloud)
    assert (await endpoint.post(f"/agent/v1/commands/{command}", body, router=tokyo)).status == 422
    with cloud.database.read() as session:
        assert site_commands.get(session, OPERATOR, command).state == "waiting"


async def test_a_command_that_nobody_began_expires_and_may_still_be_answered(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled
) -> None:
    command = order(cloud)
    cloud.now = NOW + timedelta(minutes=11)
    assert (await beat(endpoint, tokyo))["commands"] == []
    requests.end_overdue(cloud.database, keep_days=30, now=cloud.now)
    with cloud.database.read() as session:
        assert site_commands.get(session, OPERATOR, command).state == "expired"
    # It had been begun in time, and its answer was late.
    done = json.dumps({"state": "done", "status": 0, "output": "late"})
    assert (await endpoint.post(f"/agent/v1/commands/{command}", done, router=tokyo)).status == 204
    with cloud.database.read() as session:
        assert site_commands.get(session, OPERATOR, command).output == "late"


async def test_an_older_agent_is_asked_for_nothing_new(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    ask(cloud)
    order(cloud)
    answer = await beat(endpoint, tokyo, features=[])
    assert (answer["log_pulls"], answer["commands"]) == ([], [])


async def test_after_a_while_nobody_looks_on(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    ask(cloud)
    assert (await beat(endpoint, tokyo, uplink={"kind": "mobile"}))["heartbeat_s"] == requests.ATTENDED_MOBILE_S
    cloud.now = NOW + requests.ATTENTION + timedelta(seconds=1)
    assert (await beat(endpoint, tokyo))["heartbeat_s"] == 30


async def test_crash_reports_are_kept_once_and_bounded(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, kobe: Enrolled
) -> None:
    report = {
        "id": "ab" * 16, "kind": "killed", "process": "kyoten-agent", "summary": "ended\0", "count": 1,
        "first_at": "2026-11-22T09:00:00Z", "last_at": "2026-11-22T09:00:00Z", "versions": {"agent": "1"}, "text": "x",
    }  # fmt: skip

    async def send(router: Enrolled, **changes: Any) -> int:
        return (await endpoint.post("/agent/v1/crashes", json.dumps({**report, **changes}), router=router)).status

    assert [await send(tokyo), await send(tokyo, count=4), await send(kobe)] == [204, 204, 204]
    for wrong in ({"id": "../x"}, {"kind": "bored"}, {"first_at": "once"}, {"text": "x" * 40_000}):
        assert await send(tokyo, **wrong) == 422, wrong
    with cloud.database.read() as session:
        (kept,) = crash_reports.of_site(session, OPERATOR, "tokyo-1")
        assert (kept.count, kept.summary, kept.versions) == (4, "ended\ufffd", {"agent": "1"})
        assert crash_reports.get(session, OPERATOR, "tokyo-1", "abab").id == "ab" * 16
        for unknown in ("cd", ""):
            with pytest.raises(InputError):
                crash_reports.get(session, OPERATOR, "tokyo-1", unknown)
    with cloud.database.write() as session:
        for number in range(crash_reports.KEPT + 3):
            crash_reports.record(
                session, OPERATOR, site_id="tokyo-1", report_id=f"{number:032x}", kind="child", process="p",
                summary="s", first_at=NOW, last_at=NOW, count=1, versions={}, text="",
                now=NOW + timedelta(seconds=number + 1),
            )  # fmt: skip
        assert len(crash_reports.of_site(session, OPERATOR, "tokyo-1")) == crash_reports.KEPT
        assert len(crash_reports.of_site(session, OPERATOR, "kobe-1")) == 1, "another site's reports were pushed out"


async def test_old_bytes_go_and_the_request_stays(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    pull, open_one = ask(cloud), ask(cloud)
    await piece(endpoint, tokyo, pull, 0, PACKED)
    await piece(endpoint, tokyo, open_one, 0, PACKED[:10])
    requests.end_overdue(cloud.database, keep_days=30, now=NOW + timedelta(days=31))
    with cloud.database.read() as session:
        assert log_pulls.received(session, OPERATOR, pull) is None
        assert log_pulls.get(session, OPERATOR, pull).state == "done"
        assert log_pulls.get(session, OPERATOR, open_one).state == "expired"
        with pytest.raises(InputError):
            list(pulls.text(session, OPERATOR, pull))
