"""Routers get the console key with an answer, and who logged in at a console becomes an incident."""

from datetime import timedelta
from typing import Any

from fleet_cloud import Cloud, Endpoint, Enrolled, heartbeat_document

from cloudside.alerts import incidents, notices
from cloudside.fleet import console
from cloudside.pki import console_key
from cloudside.pki.store import KeyStore
from cloudside.registry import audit, console_answers
from cloudside.registry.callers import OPERATOR
from router_agent.console import keys
from router_agent.console.report import fingerprint

CHALLENGE = "04HM-ASW9-GWVV"
LOGIN = {"id": "1", "at": "2026-11-22T10:00:00+00:00", "challenge": CHALLENGE, "ended": False}


async def beat(endpoint: Endpoint, router: Enrolled, **state: Any) -> Any:
    changes = {"console": state} if state else {}
    answer = await endpoint.post("/agent/v1/heartbeat", heartbeat_document(router.site, **changes), router=router)
    assert answer.status == 200, answer
    return answer.document


async def test_a_router_gets_the_key_until_it_names_it(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    key = (await beat(endpoint, tokyo, key=""))["console_key"]
    assert key == console_key.published(KeyStore.of(cloud.config))
    # Both halves have the same name for it, and a router can read it.
    assert fingerprint(key.encode()) == console_key.fingerprint(key)
    assert keys.parse(key.encode()).curve.name == "secp256r1"
    assert (await beat(endpoint, tokyo, key=fingerprint(key.encode())))["console_key"] is None
    assert (await beat(endpoint, tokyo, key="ab" * 32))["console_key"] == key
    assert (await beat(endpoint, tokyo))["console_key"] is None, "an older agent has no use for it"
    assert (tokyo.directory / "console.pub").read_text() == key, "a bundle has it as well"


async def test_a_login_is_an_incident_until_it_is_over(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    with cloud.database.write("ann") as session:
        console_answers.add(
            session, OPERATOR, site_id="tokyo-1", challenge=CHALLENGE, reason="no tunnel", person="ann", now=cloud.now
        )
    await beat(endpoint, tokyo, logins=[LOGIN])
    await beat(endpoint, tokyo, logins=[{**LOGIN, "ended": True}])
    with cloud.database.read() as session:
        (incident,) = incidents.open_incidents(session, console.KIND)
        entries = audit.latest(session, OPERATOR, most=9, subject=f"tokyo-1/{CHALLENGE}")
    assert incident.subject == "tokyo-1"
    assert (incident.params["person"], incident.params["reason"]) == ("ann", "no tunnel")
    assert [entry.action for entry in entries] == ["changed", "added"], "its use is noted once"
    for language in ("en", "ja"):
        notice = notices.write(incident.kind, incident.subject, incident.params, incident.opened_at, language=language)
        assert "tokyo-1" in notice.subject
        assert "ann" in notice.body
        assert "{" not in notice.body
    await beat(endpoint, tokyo, logins=[])
    with cloud.database.read() as session:
        assert incidents.open_incidents(session, console.KIND) == []


async def test_a_login_that_nobody_was_answered_for_says_so(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    await beat(endpoint, tokyo, logins=[LOGIN])
    with cloud.database.read() as session:
        (incident,) = incidents.open_incidents(session, console.KIND)
    assert incident.params["person"] == "-"


async def test_a_response_for_another_site_is_not_this_ones(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    later = cloud.now + timedelta(seconds=1)
    with cloud.database.write("ann") as session:
        console_answers.add(
            session, OPERATOR, site_id="kobe-1", challenge=CHALLENGE, reason="", person="ann", now=later
        )
    await beat(endpoint, tokyo, logins=[LOGIN])
    with cloud.database.read() as session:
        (incident,) = incidents.open_incidents(session, console.KIND)
    assert incident.params["person"] == "-"
