"""The relay's counters: what Prometheus is told, and that no stranger can make labels."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from cloudside.mail.metrics import WORDS_MAX, Look, Metrics, Observed, Words, application


def client(metrics: Metrics, look: Look) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(application(metrics, look)), base_url="http://relay.test")


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_happened_is_counted() -> None:
    metrics = Metrics()
    metrics.accepted("site", recipients=3, size=1000, seconds=0.001)
    metrics.refused("size")
    metrics.login("failed")
    metrics.connected("site", 1)
    metrics.attempted("delivered", 0.02)
    metrics.finished("delivered", 1.5)
    metrics.bounced("failed")
    found = samples(metrics.text().decode())
    assert found["kyoten_mail_accepted_total", (("listener", "site"),)] == 1
    assert found["kyoten_mail_accepted_recipients_total", ()] == 3
    assert found["kyoten_mail_accepted_bytes_total", ()] == 1000
    assert found["kyoten_mail_refused_total", (("reason", "size"),)] == 1
    assert found["kyoten_mail_logins_total", (("result", "failed"),)] == 1
    assert found["kyoten_mail_connections", (("listener", "site"),)] == 1
    assert found["kyoten_mail_attempts_total", (("verdict", "delivered"),)] == 1
    assert found["kyoten_mail_commit_seconds_count", ()] == 1
    assert found["kyoten_mail_attempt_seconds_sum", ()] == 0.02
    assert found["kyoten_mail_finished_total", (("state", "delivered"),)] == 1
    assert found["kyoten_mail_bounces_total", (("meaning", "failed"),)] == 1


def test_two_relays_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.refused("size")
    assert ("kyoten_mail_refused_total", (("reason", "size"),)) not in samples(other.text().decode())


def test_labels_are_bounded_whatever_comes() -> None:
    words = Words()
    assert words.bounded("ops@customer.test") == "other"
    assert words.bounded("") == "other"
    assert words.bounded("x" * 60) == "other"
    known = {words.bounded(f"reason-{number}") for number in range(1000)}
    assert len(known) == WORDS_MAX + 1 and "other" in known
    assert words.bounded("reason-0") == "reason-0"  # who came first stays


async def _quiet() -> Observed:
    return Observed(states={"queued": 2}, oldest_s=7.0, quota_max=1000.0, quota_left=990.0, in_flight_bytes=42.0)


async def _troubled() -> Observed:
    return Observed(trouble="quota")


async def test_the_endpoint_tells_how_things_stand_now() -> None:
    metrics = Metrics()
    async with client(metrics, _quiet) as asking:
        quiet = samples((await asking.get("/metrics")).text)
    async with client(metrics, _troubled) as asking:
        troubled = samples((await asking.get("/metrics")).text)
    assert quiet["kyoten_mail_queue", (("state", "queued"),)] == 2
    assert quiet["kyoten_mail_oldest_waiting_seconds", ()] == 7
    assert quiet["kyoten_mail_smarthost_up", ()] == 1
    assert quiet["kyoten_mail_quota_max", ()] == 1000 and quiet["kyoten_mail_quota_left", ()] == 990
    assert quiet["kyoten_mail_in_flight_bytes", ()] == 42
    assert troubled["kyoten_mail_smarthost_up", ()] == 0
    assert troubled["kyoten_mail_smarthost_trouble", (("verdict", "quota"),)] == 1
    assert ("kyoten_mail_queue", (("state", "queued"),)) not in troubled  # gone, not as it was


async def test_nothing_else_is_served() -> None:
    async with client(Metrics(), _quiet) as asking:
        assert (await asking.get("/")).status_code == 404
        assert (await asking.post("/metrics")).status_code == 405
