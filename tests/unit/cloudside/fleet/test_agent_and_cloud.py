"""The router's own code against the real endpoint: enrolled by ticket, heard, renewed, moved to another prefix."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fleet_cloud import NOW, Cloud, heartbeat_document
from fleet_cloud import Endpoint as Served

from cloudside.pki import tickets
from cloudside.registry.callers import OPERATOR
from router_agent import cli, identity
from router_agent.bundle import Endpoint
from router_agent.enrolment import renew
from router_agent.enrolment.renew import Line
from router_agent.enrolment.renewal import Renewal
from router_agent.errors import CloudRefusedError
from router_agent.report import cloud as client


def ticket(cloud: Cloud, directory: Path, port: int) -> Path:
    path = directory / "tokyo-1.ticket"
    with cloud.database.write() as session:
        tickets.write(
            session,
            cloud.config,
            OPERATOR,
            site_id="tokyo-1",
            output=path,
            valid=timedelta(days=7),
            author="test",
            now=NOW,
        )
    document = json.loads(path.read_text())
    document["endpoints"] = [{"address": "127.0.0.1", "port": 1}, {"address": "127.0.0.1", "port": port}]
    path.write_text(json.dumps(document))
    return path


async def enrolled(cloud: Cloud, endpoint: Served, directory: Path) -> tuple[Path, Path]:
    state, path = directory / "router", ticket(cloud, directory, endpoint.port)
    assert await asyncio.to_thread(cli.main, ["enrol", str(path), "--state", str(state)]) == cli.EXIT_OK
    return state, path


async def test_a_router_enrols_is_heard_and_its_ticket_is_used_up(
    cloud: Cloud, endpoint: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, path = await enrolled(cloud, endpoint, tmp_path)
    who = identity.load(state)
    here = (Endpoint("127.0.0.1", endpoint.port, False),)
    heard = await asyncio.to_thread(
        client.connect(who, tmp_path).heartbeat, json.loads(heartbeat_document("tokyo-1")), here
    )
    assert heard.answer.heartbeat_s == 30
    assert heard.skew_s is not None
    assert heard.clock_wrong() is None
    capsys.readouterr()
    again = ["enrol", str(path), "--state", str(tmp_path / "thief")]
    assert await asyncio.to_thread(cli.main, again) == cli.EXIT_REFUSED
    assert "tokyo-1" in capsys.readouterr().err
    assert not identity.is_installed(tmp_path / "thief")


async def test_a_router_renews_with_the_real_cloud_when_it_is_time(
    cloud: Cloud, endpoint: Served, tmp_path: Path
) -> None:
    state, _ = await enrolled(cloud, endpoint, tmp_path)
    who = identity.load(state)
    before = identity.members(who)
    here = (Endpoint("127.0.0.1", endpoint.port, False),)
    connected = client.connect(who, tmp_path)
    asked: list[str] = []
    adopted: list[identity.Identity] = []
    renewal = Renewal(
        who, state, ask=asked.append, adopt=lambda new, _: adopted.append(new), prove=lambda _: None, now=0
    )

    async def ask(now: float) -> None:
        renewal.step(now, datetime.now(UTC), asked=True, skew_s=0, line=Line(proven=False, unanswered=False), roll=0.5)
        files = await asyncio.to_thread(connected.next_certificate, asked[-1], here)
        renewal.answered(files, now, datetime.now(UTC), 0.5)

    await ask(0)
    assert adopted == [], "before its time the cloud sends the certificate in use"
    cloud.now = NOW + timedelta(days=300)
    heard = await asyncio.to_thread(connected.heartbeat, json.loads(heartbeat_document("tokyo-1")), here)
    assert heard.answer.renew_certificate
    await ask(renew.AGAIN.most_s)
    [new] = adopted
    after = identity.members(new)
    assert {name for name in after if after[name] != before[name]} == {"site.crt", "site.key"}
    assert renewal.ends > NOW + timedelta(days=600)


async def test_a_request_from_another_device_is_refused(cloud: Cloud, endpoint: Served, tmp_path: Path) -> None:
    state, _ = await enrolled(cloud, endpoint, tmp_path)
    (state / "identity" / "device_id").write_text("ab" * 32)
    here = (Endpoint("127.0.0.1", endpoint.port, False),)
    with pytest.raises(CloudRefusedError):
        await asyncio.to_thread(client.connect(identity.load(state), tmp_path).next_certificate, "x", here)
