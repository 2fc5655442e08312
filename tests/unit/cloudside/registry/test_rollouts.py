"""Rollouts through the registry and the heartbeat handler, on both engines: what people state, routers say, the worker
decides and routers are told."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from cloudside.alerts import incidents
from cloudside.errors import InputError, RefusedError
from cloudside.fleet import heartbeat as handler
from cloudside.fleet.protocol import FirmwareOffer, FirmwareState, Heartbeat, ModuleState, Problem
from cloudside.fleet.rollouts import keeper, wishes
from cloudside.fleet.rollouts.model import Limits, Plan, Ring
from cloudside.fleet.rollouts.wishes import Selection
from cloudside.registry import audit, grants, labels, releases, reports, rollouts, sites
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.database import Database
from firmware.release import Applicability, Delta, File, Release, SlotFacts, release_path

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
ACME, ZENITH = Caller("acme"), Caller("zenith")
HARDWARE = "kyoten-x86-64"
ADDRESS = ip_address("10.10.0.1")
INTERVALS = handler.Intervals(wired_s=30, mobile_s=120, confirm_s=60)
ALL = Plan(rings=(Ring(1.0, soak_s=0.0),), limits=Limits(at_once=10))


def file_of(digit: str, size: int) -> File:
    return File(f"{digit * 64}.zst", size, digit * 64, 262_144, (digit * 64,))


def release(version: str, counter: int, deltas: Mapping[int, int] | None = None) -> Release:
    """A release document with these sizes."""
    return Release(
        hardware=HARDWARE,
        version=version,
        counter=counter,
        created="2026-11-22T00:00:00Z",
        applicability=Applicability(1, (HARDWARE,), 500, False),
        bundle_size=1,
        bundle_sha256="a" * 64,
        slot=SlotFacts("b" * 64, "c" * 64, 1, 4096, "d" * 64),
        full=file_of("e", 90_000_000),
        deltas=tuple(Delta(number, "f" * 64, 1, file_of("f", size), 300) for number, size in (deltas or {}).items()),
        notes="",
    )


def publish(database: Database) -> None:
    with database.write() as session:
        for one in (release("1.0.0", 10), release("1.1.0", 11, {10: 4_000_000})):
            releases.publish(session, OPERATOR, one, release_path(HARDWARE, one.version), NOW)


def beat(
    database: Database,
    site: str,
    now: datetime,
    *,
    counter: int = 10,
    stage: str = "idle",
    problem: Problem | None = None,
    **more: Any,
) -> FirmwareOffer | None:
    """A heartbeat of a router; what it is offered."""
    state = FirmwareState(
        hardware=HARDWARE,
        version=f"1.{counter - 10}.0",
        counter=counter,
        slot="A",
        stage=stage,
        release="" if stage == "idle" else release_path(HARDWARE, "1.1.0"),
        problem=problem,
    )
    document = Heartbeat.model_validate(
        {
            "protocol": 1,
            "site": site,
            "sent_at": now.isoformat(),
            "uplink": {"kind": "wired"},
            "tunnel": {"up": True},
            "load": {"load_1m": 0, "memory_available_mib": 1, "uptime_s": 1, "agent_rss_mib": 1},
            "versions": {},
            "settings": {"version": 0},
            "firmware": state.model_dump(),
            **more,
        }
    )
    with database.record() as session:
        return handler.receive(session, document, site_id=site, source=ADDRESS, intervals=INTERVALS, now=now).firmware


def start(database: Database, caller: Caller = OPERATOR, plan: Plan = ALL, **selected: Any) -> str:
    """Start a rollout of 1.1.0; its name."""
    with database.write() as session:
        row, _ = wishes.start(
            session, caller, version="1.1.0", plan=plan, selection=Selection(**selected), author="ops", now=NOW
        )
        return row.id


def state_of(database: Database, name: str) -> tuple[str, dict[str, str]]:
    """A rollout's state and its targets'."""
    with database.read() as session:
        row = rollouts.get(session, OPERATOR, name)
        found = rollouts.targets(session, OPERATOR, name)
    return row.state, {target.site_id: target.state for target in found}


@pytest.fixture
def ready(populated: Database) -> Database:
    """Both sites run 1.0.0, and 1.1.0 is published."""
    publish(populated)
    for site in ("tokyo-1", "osaka-1"):
        assert beat(populated, site, NOW) is None
    return populated


def test_a_release_reaches_its_sites_and_the_rollout_ends(ready: Database) -> None:
    name = start(ready)
    assert name == "1.1.0-1"
    now = NOW + timedelta(seconds=15)
    assert beat(ready, "tokyo-1", now) is None  # the worker has not looked yet
    assert keeper.step_all(ready, now) == 1
    assert state_of(ready, name) == ("running", {"osaka-1": "offered", "tokyo-1": "offered"})
    offer = beat(ready, "tokyo-1", now)
    assert offer == FirmwareOffer(release=release_path(HARDWARE, "1.1.0"), counter=11, rollout=name)
    assert keeper.step_all(ready, now + timedelta(seconds=15)) == 0  # nothing has changed
    now += timedelta(minutes=20)
    for site in ("tokyo-1", "osaka-1"):
        beat(ready, site, now, counter=11, stage="committed")
    keeper.step_all(ready, now)
    assert state_of(ready, name) == ("finished", {"osaka-1": "updated", "tokyo-1": "updated"})
    assert beat(ready, "tokyo-1", now, counter=11, stage="committed") is None
    assert keeper.step_all(ready, now) == 0


def test_failures_halt_it_withdraw_offers_and_open_an_incident(ready: Database) -> None:
    name = start(ready, plan=Plan(rings=(Ring(0.5), Ring(1.0)), limits=Limits(at_once=1)))
    now = NOW + timedelta(seconds=15)
    keeper.step_all(ready, now)
    (first,) = (site for site, state in state_of(ready, name)[1].items() if state == "offered")
    why = Problem(key="agent.update-no-tunnel", params={"seconds": 600})
    beat(ready, first, now + timedelta(minutes=20), stage="returned", problem=why)
    keeper.step_all(ready, now + timedelta(minutes=20))
    assert state_of(ready, name)[1][first] == "failed"
    for days in (1, 2):  # soak, then the gate
        keeper.step_all(ready, now + timedelta(days=days, hours=1))
    state, targets = state_of(ready, name)
    assert state == "halted"
    assert sorted(targets.values()) == ["failed", "waiting"]
    with ready.read() as session:
        (incident,) = incidents.open_incidents(session, wishes.INCIDENT)
        assert incident.subject == name and incident.params["why_key"] == "rollout.halted-failures"
        assert keeper.problems_of(session, OPERATOR, name) == [(first, "failed", why.model_dump())]
    later = now + timedelta(days=3)
    with ready.write() as session:
        wishes.resume(session, OPERATOR, name, now=later)
        assert incidents.open_incidents(session, wishes.INCIDENT) == []
    other = next(site for site in targets if site != first)
    beat(ready, other, later)
    for step in range(3):
        keeper.step_all(ready, later + timedelta(seconds=15 * step))
        if state_of(ready, name)[1][other] == "offered":
            break
        later += timedelta(days=1, hours=1)
        beat(ready, other, later)
    assert beat(ready, other, later) is not None


def test_halted_and_aborted_rollouts_offer_nothing(ready: Database) -> None:
    name = start(ready)
    keeper.step_all(ready, NOW)
    assert beat(ready, "tokyo-1", NOW) is not None
    with ready.write() as session:
        wishes.pause(session, OPERATOR, name)
    assert beat(ready, "tokyo-1", NOW) is not None  # it has begun, and goes on
    with ready.write() as session:
        releases.yank(session, OPERATOR, hardware=HARDWARE, version="1.1.0", reason="bad", now=NOW)
    assert beat(ready, "tokyo-1", NOW) is None, "from that moment on, not from the worker's next look on"
    keeper.step_all(ready, NOW)
    assert state_of(ready, name)[0] == "halted"
    assert beat(ready, "tokyo-1", NOW) is None
    with pytest.raises(InputError, match="yanked-version"), ready.write() as session:
        wishes.resume(session, OPERATOR, name, now=NOW)
    with ready.write() as session:
        wishes.abort(session, OPERATOR, name, now=NOW)
        assert incidents.open_incidents(session, wishes.INCIDENT) == []
    assert state_of(ready, name) == ("aborted", {"osaka-1": "withdrawn", "tokyo-1": "withdrawn"})
    with pytest.raises(InputError, match=r"rollout\.cannot"), ready.write() as session:
        wishes.resume(session, OPERATOR, name, now=NOW)


def test_a_step_that_a_person_overtook_is_dropped(ready: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    name = start(ready)
    real = keeper.step

    def overtaken(scene: Any) -> Any:
        with ready.write() as session:
            wishes.pause(session, OPERATOR, name)
        return real(scene)

    monkeypatch.setattr(keeper, "step", overtaken)
    assert keeper.step_one(ready, name, NOW) is False
    assert state_of(ready, name) == ("paused", {"osaka-1": "waiting", "tokyo-1": "waiting"})


def test_one_rollout_that_cannot_be_stepped_does_not_hold_up_the_others(ready: Database) -> None:
    broken, other = start(ready, ACME), start(ready, ZENITH)
    with ready.write() as session:
        rollouts.get(session, OPERATOR, broken).plan = {"rings": 7}
    with pytest.raises(KeyError):
        keeper.step_all(ready, NOW)
    assert state_of(ready, other) == ("running", {"osaka-1": "offered"})


def test_a_site_belongs_to_one_rollout_at_a_time(ready: Database) -> None:
    start(ready, ACME)
    with ready.read() as session:
        dry = wishes.draft(session, OPERATOR, version="1.1.0", plan=ALL, selection=Selection(), now=NOW)
    assert dry.left_out == {"tokyo-1": "taken"}
    assert [one.place.site for one in dry.planned] == ["osaka-1"]
    with pytest.raises(InputError, match=r"rollout\.nobody"):
        start(ready, ACME)


def test_a_tenants_rollout_holds_its_own_sites_and_is_nobody_elses(ready: Database) -> None:
    name = start(ready, ZENITH)
    assert name == "zenith-1.1.0-1"
    assert state_of(ready, name)[1] == {"osaka-1": "waiting"}
    operators = start(ready)
    acts = (
        lambda s, c, n: rollouts.get(s, c, n),
        lambda s, c, n: rollouts.targets(s, c, n),
        lambda s, c, n: rollouts.progress(s, c, n),
        lambda s, c, n: rollouts.counts(s, c, n),
        lambda s, c, n: keeper.problems_of(s, c, n),
        lambda s, c, n: wishes.pause(s, c, n),
        lambda s, c, n: wishes.resume(s, c, n, now=NOW),
        lambda s, c, n: wishes.abort(s, c, n, now=NOW),
    )
    for act in acts:
        answers = []
        for one in (name, operators, "nothing-1"):
            with pytest.raises(InputError) as caught, ready.write() as session:
                act(session, ACME, one)
            answers.append(str(caught.value).replace(one, "ROLLOUT"))
        assert len(set(answers)) == 1 and "registry.unknown-rollout" in answers[0]
    with ready.read() as session:
        assert rollouts.every(session, ACME) == [] and rollouts.unfinished(session, ACME) == []
        assert [row.id for row in rollouts.every(session, ZENITH)] == [name]
        assert {row.id for row in rollouts.every(session, OPERATOR)} == {name, operators}
        assert {row.site for row in rollouts.fleet(session, ACME)} == {"tokyo-1"}
        assert list(releases.states(session, ACME)) == ["tokyo-1"]
        assert rollouts.next_id(session, ACME, "1.1.0") == "acme-1.1.0-1"  # counts its own only
        with pytest.raises(InputError, match="unknown-site"):
            releases.state(session, ACME, "osaka-1")
    for selected in ({"sites": ["osaka-1"]}, {"tenant": "zenith"}):
        with pytest.raises(InputError):
            start(ready, ACME, **selected)
    with pytest.raises(InputError, match="unknown-site"), ready.write() as session:
        rollouts.add(
            session, ACME, rollout_id="x", version="1.1.0", plan={}, targets=[{"site_id": "osaka-1"}], author="a",
            now=NOW,
        )  # fmt: skip


def test_releases_are_the_operators_to_publish_and_to_yank(ready: Database) -> None:
    for act in (
        lambda s: releases.publish(s, ACME, release("2.0.0", 20), "x", NOW),
        lambda s: releases.yank(s, ACME, hardware=HARDWARE, version="1.1.0", reason="", now=NOW),
    ):
        with pytest.raises(RefusedError), ready.write() as session:
            act(session)
    with ready.read() as session:
        assert [row.version for row in releases.every(session, ACME)] == ["1.1.0", "1.0.0"]
        with pytest.raises(InputError, match="unknown-version"):
            releases.of_version(session, OPERATOR, "7.7")


def test_labels_are_the_sites_tenants(ready: Database) -> None:
    with ready.write() as session:
        labels.set_labels(session, ACME, site_id="tokyo-1", changes={"canary": "yes", "exclusive": "tower"})
        assert labels.set_labels(session, ACME, site_id="tokyo-1", changes={"canary": None}) == {"exclusive": "tower"}
        labels.set_labels(session, ZENITH, site_id="osaka-1", changes={"exclusive": "tower"})
        for act in (
            lambda: labels.set_labels(session, ACME, site_id="osaka-1", changes={"a": "b"}),
            lambda: labels.of_site(session, ACME, "osaka-1"),
        ):
            with pytest.raises(InputError, match="unknown-site"):
                act()
    with ready.read() as session:
        assert labels.every(session, ACME) == {"tokyo-1": {"exclusive": "tower"}}
        # The same word of two tenants is two words.
        assert labels.exclusive(session, OPERATOR) == {"tokyo-1": "acme/tower", "osaka-1": "zenith/tower"}


@pytest.mark.parametrize("words", [["a"], ["A=b"], ["a="], ["a=b c"], ["=b"], ["a=" + "x" * 64], ["a" * 41 + "=b"]])
def test_what_is_no_label_is_refused(words: list[str]) -> None:
    if words == ["a="]:
        assert labels.parse(words) == {"a": None}
        return
    with pytest.raises(InputError, match="bad-label"):
        labels.parse(words)


def test_what_people_do_is_in_the_audit_log_and_what_routers_say_is_not(ready: Database) -> None:
    with ready.write("hana") as session:
        labels.set_labels(session, OPERATOR, site_id="tokyo-1", changes={"canary": "yes"})
    name = start(ready)
    keeper.step_all(ready, NOW)
    beat(ready, "tokyo-1", NOW + timedelta(minutes=1), stage="fetching")
    with ready.write("hana") as session:
        wishes.abort(session, OPERATOR, name, now=NOW)
    with ready.read() as session:
        entries = [entry for entry, _ in audit.entries(session, OPERATOR)]
    kinds = [(entry.kind, entry.action, entry.actor) for entry in entries]
    assert ("site_labels", "added", "hana") in kinds and ("rollouts", "changed", "hana") in kinds
    assert not {"rollout_targets", "site_firmware", "rollout_progress"} & {kind for kind, _, _ in kinds}


def test_what_a_router_says_of_its_firmware_is_kept_within_bounds(ready: Database) -> None:
    modules = [ModuleState(name="modem", version="1", stage="active").model_dump()]
    beat(ready, "tokyo-1", NOW, counter=10, stage="x" * 200, modules=modules)
    with ready.read() as session:
        found = releases.state(session, OPERATOR, "tokyo-1")
    assert found is not None and found.stage == "x" * 20
    assert found.modules["modules"][0]["name"] == "modem"


def test_an_open_visit_is_told_with_the_offer(ready: Database) -> None:
    start(ready)
    keeper.step_all(ready, NOW)
    with ready.write() as session:
        grants.add(
            session, OPERATOR, grant_id="0" * 10, tenant_id="acme", source="web", destination="tokyo-1/plc",
            services="ssh", starts_at=NOW, ends_at=NOW + timedelta(hours=1), reason="visit", author="ops",
            overlay=sites.get(session, OPERATOR, "tokyo-1").overlay.supernet(new_prefix=8), now=NOW,
        )  # fmt: skip
    told = {site: beat(ready, site, NOW + timedelta(minutes=1)) for site in ("tokyo-1", "osaka-1")}
    assert {site: offer.visit_open for site, offer in told.items() if offer} == {"tokyo-1": True, "osaka-1": False}


def test_a_site_whose_tunnels_are_all_down_is_not_well(ready: Database) -> None:
    name = start(ready)
    with ready.record() as session:
        for gateway, up in (("gw1", False), ("gw2", False)):
            reports.record_tunnel(session, OPERATOR, site_id="tokyo-1", gateway=gateway, up=up, since=NOW)
        reports.record_tunnel(session, OPERATOR, site_id="osaka-1", gateway="gw1", up=False, since=NOW)
        reports.record_tunnel(session, OPERATOR, site_id="osaka-1", gateway="gw2", up=True, since=NOW)
    later = NOW + timedelta(hours=1)
    for site in ("tokyo-1", "osaka-1"):
        beat(ready, site, later)  # outside of the tunnel, reports arrive
    keeper.step_all(ready, later)
    assert state_of(ready, name)[1] == {"osaka-1": "offered", "tokyo-1": "waiting"}


def test_an_old_agent_without_firmware_is_left_alone(populated: Database) -> None:
    publish(populated)
    document = {"firmware": None}
    assert beat(populated, "tokyo-1", NOW, **document) is None
    with populated.read() as session:
        assert releases.state(session, OPERATOR, "tokyo-1") is None
        dry = wishes.draft(session, OPERATOR, version="1.1.0", plan=ALL, selection=Selection(), now=NOW)
    assert dry.left_out == {"tokyo-1": "unknown", "osaka-1": "unknown"}
