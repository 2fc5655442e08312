"""The watch pass by pass, on a real queue and a real registry, with a clock of its own."""

import asyncio
import email
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.policy import default

import pytest
from sqlalchemy import select

from cloudside.alerts import incidents
from cloudside.alerts.paths import PathError
from cloudside.config import Alerts, Config
from cloudside.mail.bounces import dsn
from cloudside.mail.delivery.delivery import Trouble
from cloudside.mail.delivery.outcome import Verdict
from cloudside.mail.delivery.quota import Quota, Supply
from cloudside.mail.intake.directory import Directory
from cloudside.mail.model import Kind, NewMessage, Selection, State
from cloudside.mail.store.queue import Queue
from cloudside.mail.watch.sightings import Sight, Sightings
from cloudside.mail.watch.watch import watch_of
from cloudside.registry.tables import Incident, MailDomain, MailLimit, MailProfile, Suppression

NOON = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
VOICE = dsn.Voice("relay.test", "kyoten@kyoten.test", "en")
HOUR, DAY, WEEK = 3600, 86400, 7 * 86400


@dataclass
class Out:
    """A way out that is as told."""

    tried: bool = True
    trouble: Trouble | None = None
    quota: Quota | None = None
    quota_error: str = ""

    def wake(self):
        pass


@dataclass
class Way:
    """A second way that works or not."""

    name: str = "webhook/1"
    ends: bool = True
    works: bool = True
    told: list = field(default_factory=list)

    async def tell(self, telling):
        if not self.works:
            raise PathError("down", lasting=True)
        self.told.append((telling.kind, telling.stage))


class Eye:
    """A watch, its surroundings, and a clock."""

    def __init__(self, queue, registry, tmp_path):
        self.queue, self.registry, self.out, self.sightings = queue, registry, Out(), Sightings()
        self.now = NOON
        self._ids = itertools.count(1)
        self.config = Config(state_directory=tmp_path, alerts=Alerts(staff=("ops@kyoten.test",)))
        self.restart()

    def restart(self):
        self.directory = Directory(self.registry)
        self.watch = watch_of(
            self.config, database=self.registry, directory=self.directory, queue=self.queue, delivery=self.out,
            sightings=self.sightings, voice=VOICE,
        )  # fmt: skip

    async def look(self, seconds=0.0, passes=2):
        self.now += timedelta(seconds=seconds)
        for _ in range(passes):
            await self.watch.look(lambda: self.now)
            await self.watch.notifier.finish()

    async def send(self, count=1, *, ago=0.0, **changed):
        known = {
            "origin": "tokyo-1", "source": "127.0.1.20", "sender": "plc@site.test", "tenant": "acme", "device": "plc",
            "recipients": ("ops@customer.test",), "subject": "Alarm",
        }  # fmt: skip
        at = self.now.timestamp() - ago
        messages = [
            NewMessage(
                id=next(self._ids), kind=Kind.MAIL, head=b"Subject: x\r\n", body=b"y\r\n", accepted_at=at,
                **(known | changed),
            )
            for _ in range(count)
        ]  # fmt: skip
        await asyncio.gather(*(self.queue.accept(message) for message in messages))
        return messages

    def open(self):
        with self.registry.read() as session:
            return {(one.kind, one.subject): one.params for one in incidents.open_incidents(session)}

    def every(self):
        with self.registry.read() as session:
            return [(one.kind, one.subject) for one in session.scalars(select(Incident).order_by(Incident.id))]

    def acknowledge(self):
        with self.registry.write() as session:
            for one in incidents.open_incidents(session):
                one.acknowledged_by = "hanako"

    def limit(self, scope, name, **changed):
        with self.registry.write() as session:
            session.add(MailLimit(scope=scope, name=name, tenant_id="acme", **({"action": "notify"} | changed)))

    async def notices(self):
        stories = await self.queue.entries(Selection(address="ops@kyoten.test"), 1000)
        return [entry.subject for entry in stories if entry.kind == "notice"]

    async def text(self):
        """The newest notice, whole."""
        found = [one for one in await self.queue.claim(self.now.timestamp() + 1, 1000) if one.original.kind == "notice"]
        content = found[-1].head + b"\r\n" + found[-1].body
        return email.message_from_bytes(content, policy=default).get_content()


@pytest.fixture
def eye(tmp_path, registry):
    queue = Queue(tmp_path / "queue", reserve_bytes=0)
    yield Eye(queue, registry, tmp_path)
    queue.close()


async def test_a_flood_is_told_at_once_with_everything_one_needs(eye):
    await eye.send(30, subject="Pump 3\x1b[31m")
    await eye.send(31, recipients=("boss@customer.test",), source="127.0.1.21")
    await eye.look()
    assert list(eye.open()) == [("mail-flood", "tokyo-1")]
    (subject,) = await eye.notices()
    assert "tokyo-1" in subject and "61" in subject
    text = await eye.text()
    for said in (
        "61 against a limit of 60", "2026-11-21 12:00 UTC - 2026-11-21 13:00 UTC", "boss@customer.test (31)",
        "127.0.1.20 (30)", "Pump 3 [31m", "kyoten mail hold --site tokyo-1 --reason flood",
        "kyoten mail release --site tokyo-1", "kyoten mail limits raise --site tokyo-1 --for 24h",
        "kyoten smtp revoke-user plc",
    ):  # fmt: skip
        assert said in text
    assert "\x1b" not in text


async def test_a_flood_is_told_hourly_while_it_lasts_and_ends_after_an_hour_within(eye):
    await eye.send(61)
    await eye.look(passes=5)
    await eye.look(1700, passes=3)
    assert len(await eye.notices()) == 1
    await eye.look(HOUR - 1700)  # the next clock hour, with another 61
    await eye.send(61)
    await eye.look(60)
    subjects = await eye.notices()
    assert len(subjects) == 2 and subjects[1].startswith("Still: Mail flood")
    await eye.look(HOUR)
    assert eye.open()  # within, but not for a full hour yet
    await eye.look(HOUR)
    assert not eye.open() and len(await eye.notices()) == 2


async def test_nobody_is_reminded_of_what_somebody_acknowledged(eye):
    await eye.send(61)
    await eye.look()
    eye.acknowledge()
    await eye.look(HOUR)
    await eye.send(61)
    await eye.look(60)
    assert len(await eye.notices()) == 1


async def test_90_per_cent_is_a_warning_that_becomes_a_flood(eye):
    await eye.send(54)
    await eye.look()
    assert not eye.open()  # it may be passing by
    await eye.look(3)
    assert list(eye.open()) == [("mail-near-limit", "tokyo-1")]
    await eye.send(10)
    await eye.look(1)
    assert list(eye.open()) == [("mail-flood", "tokyo-1")]
    assert ["near" in subject for subject in await eye.notices()] == [True, False]


async def test_a_warning_ends_by_itself(eye):
    await eye.send(54)
    await eye.look()
    await eye.look(3)
    await eye.look(2 * HOUR)
    assert eye.every() == [("mail-near-limit", "tokyo-1")] and not eye.open()


async def test_days_tenants_and_devices_have_limits_too(eye):
    eye.limit("tenant", "acme", daily=20)
    eye.limit("device", "plc", hourly=5, action="hold")
    await eye.send(10, ago=20 * HOUR)
    await eye.send(11)
    await eye.look()
    assert sorted(eye.open()) == [("mail-flood", "tokyo-1/plc"), ("mail-flood-day", "tenant/acme")]
    params = eye.open()
    assert params["mail-flood-day", "tenant/acme"]["count"] == 21
    commands = [command for _, command in params["mail-flood", "tokyo-1/plc"]["commands"]]
    assert "kyoten mail hold --device plc --reason flood" in commands
    assert "kyoten mail limits raise --device plc --for 24h" in commands
    assert "kyoten mail hold --tenant acme --reason flood" in str(params["mail-flood-day", "tenant/acme"])


async def test_mail_that_is_refused_for_its_many_recipients_is_a_crossing(eye):
    eye.limit("site", "tokyo-1", hourly=50, action="refuse")
    await eye.send(20)
    eye.sightings.saw(Sight.LIMIT_REFUSED, "site/tokyo-1", "127.0.1.20", eye.now.timestamp(), "tokyo-1")
    eye.sightings.saw(Sight.LIMIT_REFUSED, "nonsense", "127.0.1.20", eye.now.timestamp())
    await eye.look()
    assert eye.open()["mail-flood", "tokyo-1"]["count"] == 20
    assert "refused for now" in await eye.text()


async def test_a_day_that_is_only_still_too_much_in_sum_reminds_nobody(eye):
    eye.limit("site", "tokyo-1", hourly=5000, daily=200)
    await eye.send(210)
    await eye.look()
    for _ in range(5):
        await eye.look(HOUR)
    assert list(eye.open()) == [("mail-flood-day", "tokyo-1")] and len(await eye.notices()) == 1
    await eye.send(30)
    await eye.look()
    assert len(await eye.notices()) == 2


async def test_a_raised_limit_ends_the_matter(eye):
    await eye.send(61)
    await eye.look()
    eye.limit("site", "tokyo-1", hourly=60, daily=500, raised=3, raised_until=datetime.now(UTC) + timedelta(days=1))
    await eye.look(2 * HOUR)
    await eye.send(100)
    await eye.look()
    assert not eye.open()


async def test_a_site_far_above_its_habit_is_unusual_below_any_limit(eye):
    eye.limit("site", "tokyo-1", hourly=5000, daily=50_000)
    for day in range(1, 29):
        await eye.send(3, ago=day * DAY)
    await eye.look()
    await eye.send(100)
    await eye.look()
    assert not eye.open()
    await eye.send(60)
    await eye.look()
    assert list(eye.open()) == [("mail-unusual", "tokyo-1")]
    params = eye.open()["mail-unusual", "tokyo-1"]
    assert params["count"] == 160 and "kyoten smtp revoke-user plc" in str(params["commands"])
    eye.restart()
    await eye.look()
    assert len(await eye.notices()) == 1 and eye.open()
    await eye.look(3 * HOUR)
    assert not eye.open()


async def test_who_exceeds_a_limit_is_not_told_twice(eye):
    for day in range(1, 29):
        await eye.send(3, ago=day * DAY)
    await eye.look()
    await eye.send(300)
    await eye.look()
    assert eye.every() == [("mail-flood", "tokyo-1")]


async def test_a_stated_silence_is_missed_and_ends_with_the_next_mail(eye):
    with eye.registry.write() as session:
        session.add(MailProfile(site_id="tokyo-1", silent_after_s=HOUR))
    await eye.send(ago=HOUR - 100)
    await eye.look()
    assert not eye.open()
    await eye.look(200)
    assert list(eye.open()) == [("mail-silent", "tokyo-1")]
    assert "2026-11-21 11:31 UTC" in (await eye.notices())[0] and "kyoten site diagnose tokyo-1" in await eye.text()
    await eye.send()
    await eye.look(1)
    assert not eye.open()


async def test_a_daily_report_that_stays_away_is_missed_without_anybody_having_said_so(eye):
    for day in range(4, 60):
        await eye.send(ago=day * DAY)
    await eye.look()
    assert not eye.open()  # judged when the hour is over
    await eye.look(HOUR)
    assert list(eye.open()) == [("mail-silent", "tokyo-1")]
    await eye.send()
    await eye.look(1)
    assert not eye.open()


DOMAINS = [f"d{number}.test" for number in range(8)]


async def test_new_domains_are_told_and_known_when_somebody_acknowledged_them(eye):
    for day in range(2, 30):
        await eye.send(ago=day * DAY)
    await eye.send(recipients=("a@new-1.test", "b@new-2.test", "c@customer.test"))
    await eye.look()
    assert not eye.open()
    await eye.send(recipients=tuple(f"x@{domain}" for domain in DOMAINS))
    await eye.look()
    assert list(eye.open()) == [("mail-new-domains", "tokyo-1")]
    assert "d7.test" in eye.open()["mail-new-domains", "tokyo-1"]["names"]
    with eye.registry.read() as session:
        assert "d1.test" not in set(session.scalars(select(MailDomain.domain)))
    eye.acknowledge()
    await eye.look(60, passes=3)
    assert not eye.open()
    eye.restart()
    await eye.send(recipients=tuple(f"x@{domain}" for domain in DOMAINS))
    await eye.look(60)
    assert not eye.open()


async def test_mail_of_a_site_from_elsewhere_is_told_and_in_time_known(eye):
    for day in range(2, 5):
        await eye.send(ago=day * DAY, source="127.0.9.9")
    await eye.send(source="127.0.9.9")
    await eye.send(source="127.0.1.77")
    await eye.look()
    assert not eye.open()  # one it always came from, one of its own
    await eye.send(source="127.0.2.5")
    await eye.look()
    assert eye.open()["mail-foreign-source", "tokyo-1"]["names"] == "127.0.2.5"
    await eye.look(DAY + 1, passes=3)
    assert not eye.open()


async def test_many_bounces_are_told(eye):
    await eye.send(30)
    for attempt in (await eye.queue.claim(eye.now.timestamp(), 30))[:12]:
        await eye.queue.fail(
            attempt.original.id, attempt.index, State.BOUNCED, eye.now.timestamp(), "550", (), permanent=True
        )  # fmt: skip
    for attempt in await eye.queue.claim(eye.now.timestamp(), 30):
        await eye.queue.delivered(attempt, eye.now.timestamp(), "250")
    await eye.look()
    assert eye.open()["mail-bounces", "tokyo-1"]["count"] == 12


async def test_guessed_passwords_unknown_addresses_and_stolen_logins_are_told_and_end(eye):
    at = eye.now.timestamp()
    for number in range(12):
        eye.sightings.saw(Sight.LOGIN_FAILED, f"user{number % 3}", "127.0.7.7", at)
        eye.sightings.saw(Sight.LOGIN_FAILED, "plc", f"127.0.8.{number}", at)
        eye.sightings.saw(Sight.UNKNOWN_SOURCE, "", "127.0.7.7", at)
    eye.sightings.saw(Sight.FOREIGN_SOURCE, "plc", "127.0.2.9", at, "tokyo-1")
    eye.sightings.saw(Sight.UNKNOWN_SOURCE, "", "127.0.7.8", at)
    await eye.look()
    assert sorted(eye.open()) == [
        ("mail-credential-abroad", "tokyo-1/plc"),
        ("mail-login-failures", "127.0.7.7"),
        ("mail-login-failures", "plc"),
        ("mail-unknown-source", "127.0.7.7"),
    ]
    await eye.look(HOUR + 1)
    assert not eye.open()


async def test_what_one_relay_sees_another_one_does_not_end(eye):
    for _ in range(12):
        eye.sightings.saw(Sight.LOGIN_FAILED, "x", "127.0.7.7", eye.now.timestamp())
    await eye.look()
    seeing, eye.sightings = eye.watch, Sightings()
    eye.config = eye.config.model_copy(update={"relay": eye.config.relay.model_copy(update={"name": "relay2"})})
    eye.restart()
    await eye.look(10)
    assert eye.open()
    eye.watch = seeing
    await eye.look(HOUR + 1)
    assert not eye.open()


async def test_an_attacker_with_many_addresses_does_not_open_many_incidents(eye):
    for number in range(300):
        for _ in range(10):
            eye.sightings.saw(Sight.LOGIN_FAILED, "", f"source-{number}", eye.now.timestamp())
    await eye.look()
    assert len(eye.open()) == 10


async def test_mail_that_relays_ended_on_is_told_until_somebody_saw_to_it(eye):
    (sent,) = await eye.send()
    parked = sent.id
    for _ in range(4):
        assert await eye.queue.claim(NOON.timestamp() + 1, 1)
        await eye.queue.recover(NOON.timestamp() + 1)
    assert await eye.queue.parked() == {"tokyo-1": [parked]}
    await eye.look()
    (incident,) = eye.open().items()
    assert incident[0] == ("mail-parked", "tokyo-1") and incident[1]["count"] == 1
    await eye.queue.release(Selection(ids=(parked,)), NOON.timestamp() + 2)
    await eye.look(60)
    assert not eye.open()


async def test_old_encryption_is_told_once_for_as_long_as_it_is_permitted(eye):
    with eye.registry.write() as session:
        session.add(MailProfile(site_id="tokyo-1", old_tls=True))
    await eye.look()
    await eye.look(40 * DAY)
    assert list(eye.open()) == [("mail-old-tls", "tokyo-1")] and len(await eye.notices()) == 1


def quota(state, *, enabled=True):
    return Quota(
        max_24h=50_000, sent_24h=46_000, rate=14, at=0.0, enabled=enabled, state=state, reserve=5000, per_hour=900,
        exhausted_at=NOON.timestamp() + 4 * HOUR,
    )  # fmt: skip


async def test_each_state_of_the_quota_is_one_notice(eye):
    eye.config = Config(
        state_directory=eye.config.state_directory, alerts=eye.config.alerts,
        relay=eye.config.relay.model_copy(update={"smarthost": "ses.test"}),
    )  # fmt: skip
    eye.restart()
    for state in (Supply.OK, Supply.NEAR, Supply.NEAR, Supply.RESERVE, Supply.EXHAUSTED):
        eye.out.quota = quota(state)
        await eye.look(1)
    assert eye.every() == [(kind, "ses.test") for kind in ("quota-near", "quota-reserve", "smarthost-quota")]
    assert list(eye.open()) == [("smarthost-quota", "ses.test")] and len(await eye.notices()) == 3
    eye.out.quota, eye.out.quota_error = quota(Supply.OK, enabled=False), "SES answers 403"
    await eye.look(1)
    assert sorted(kind for kind, _ in eye.open()) == ["quota-disabled", "quota-unknown"]


async def test_a_smarthost_in_trouble_is_told_when_it_lasts_and_forgotten_when_it_is_over(eye):
    eye.out.trouble = Trouble(Verdict.UNREACHABLE, "Connection refused", eye.now.timestamp())
    await eye.look(5)
    assert not eye.open()
    await eye.look(6)
    assert [kind for kind, _ in eye.open()] == ["smarthost-unreachable"]
    eye.out.tried, eye.out.trouble = False, None
    await eye.look(1)
    assert eye.open()  # nothing was tried: nobody knows
    eye.out.tried = True
    await eye.look(1)
    assert not eye.open()


async def test_addresses_to_be_suppressed_go_into_the_registry(eye):
    for cause in ("bounce", "complaint"):
        (message,) = await eye.send(recipients=(f"{cause}@customer.test",))
        (attempt,) = await eye.queue.claim(eye.now.timestamp(), 1)
        await eye.queue.fail(
            message.id, 0, State.BOUNCED, eye.now.timestamp(), "550 no", (), permanent=True, suppress=cause
        )  # fmt: skip
        assert attempt.original.id == message.id
    await eye.look()
    assert await eye.queue.suppressing() == []
    with eye.registry.read() as session:
        rows = {row.address: row for row in session.scalars(select(Suppression))}
    assert rows["bounce@customer.test"].expires_at == eye.now + timedelta(days=30)
    assert rows["complaint@customer.test"].expires_at is None and rows["complaint@customer.test"].tenant_id == "acme"


async def test_many_incidents_at_once_are_one_notice(eye):
    with eye.registry.write() as session:
        for number in range(200):
            incidents.open_incident(session, "site-silent", f"s{number}", {"last": "x", "interval_s": 30}, eye.now)
    await eye.look()
    (subject,) = await eye.notices()
    assert "200" in subject


async def test_a_second_way_tells_it_without_the_queue_and_its_end_too(eye):
    way = Way()
    eye.watch.notifier.teller.ways = [way]
    await eye.send(61)
    await eye.look()
    await eye.look(3 * HOUR)
    assert way.told == [("mail-flood", "opened"), ("mail-flood", "ended")] and await eye.notices() == []


async def test_a_second_way_that_fails_is_told_by_the_queue_and_both_notices_arrive(eye):
    way = Way(works=False)
    eye.watch.notifier.teller.ways = [way]
    await eye.send(61)
    await eye.look(passes=3)
    assert sorted(eye.open()) == [("alert-path-failed", "webhook/1"), ("mail-flood", "tokyo-1")]
    assert len(await eye.notices()) == 2
    way.works = True
    await eye.send(61, origin="server/web", tenant="", device="127.0.0.5")
    with eye.registry.write() as session:
        incidents.open_incident(session, "chore-failed", "crl", {"reason": "x"}, eye.now)
    await eye.look()
    await eye.look(1)
    assert ("alert-path-failed", "webhook/1") not in eye.open() and ("chore-failed", "opened") in way.told


async def test_what_nobody_took_is_told_later(eye):
    way = Way(works=False)
    eye.watch.notifier.teller.ways, eye.watch.notifier.teller.last = [way], None
    await eye.send(61)
    await eye.look(passes=3)
    way.works = True
    await eye.look(5)
    assert not way.told
    await eye.look(30)
    assert ("mail-flood", "opened") in way.told


async def test_without_staff_and_ways_nothing_is_lost_and_nothing_crashes(eye):
    eye.watch.notifier.teller.last = None
    await eye.send(61)
    await eye.look(passes=3)
    with eye.registry.read() as session:
        assert len(incidents.due(session, eye.now)) == 1


async def test_a_step_that_crashes_does_not_blind_the_others(eye, monkeypatch):
    async def crash(now):
        raise RuntimeError("bug")

    monkeypatch.setattr(type(eye.watch.inspection), "run", lambda self, now: crash(now))
    await eye.send(61)
    eye.out.trouble = Trouble(Verdict.REFUSED, "535", eye.now.timestamp())
    await eye.look()
    assert sorted(kind for kind, _ in eye.open()) == ["mail-flood", "smarthost-refused"]


async def test_the_loop_tells_within_a_second_or_so(eye):
    stop = asyncio.Event()
    task = asyncio.create_task(eye.watch.run(stop, lambda: datetime.now(UTC), every_s=0.2))
    eye.now = datetime.now(UTC)
    await eye.send(61)
    async with asyncio.timeout(5):
        while not await eye.notices():
            await asyncio.sleep(0.05)
    stop.set()
    await task
