"""Which revocations end a site's tunnel: those that took something away."""

from datetime import UTC, datetime, timedelta

from cloudside.registry import certificates
from cloudside.registry.database import Database
from cloudside.registry.tables import Certificate

NOW = datetime(2026, 11, 22, 12, 0, 0, 600_000, tzinfo=UTC)
BACKDATED = timedelta(hours=1)
DAY = timedelta(days=1)


def _made(serial: str, at: datetime, revoked_at: datetime | None = None, site: str = "tokyo-1") -> Certificate:
    begins = (at - BACKDATED).replace(microsecond=0)  # as X.509 tells it
    return Certificate(
        serial=serial, authority="tenant-acme", kind="site", subject=site, pem=serial,
        not_before=begins, not_after=at + 365 * DAY, revoked_at=revoked_at,
    )  # fmt: skip


def _found(database: Database, *made: Certificate) -> dict[str, datetime]:
    with database.write() as session:
        session.add_all(made)
    with database.read() as session:
        return certificates.last_revocations(session, kind="site", now=NOW, backdated=BACKDATED)


def test_a_site_without_another_certificate_lost_what_it_had(populated: Database) -> None:
    assert _found(populated, _made("a", NOW - DAY, NOW)) == {"tokyo-1": NOW}


def test_a_router_that_was_replaced_is_out_though_the_new_one_got_its_certificate_at_once(populated: Database) -> None:
    assert _found(populated, _made("a", NOW - DAY, NOW), _made("b", NOW)) == {"tokyo-1": NOW}


def test_what_was_put_aside_after_its_successor_was_made_took_nothing_away(populated: Database) -> None:
    renewed = _made("a", NOW - 9 * DAY, NOW), _made("b", NOW - DAY)
    assert _found(populated, *renewed, _made("c", NOW - DAY, site="osaka-1")) == {}


def test_an_earlier_replacement_still_counts_after_later_renewals(populated: Database) -> None:
    replaced = NOW - 5 * DAY
    found = _found(populated, _made("a", NOW - 9 * DAY, replaced), _made("b", replaced, NOW), _made("c", NOW - DAY))
    assert found == {"tokyo-1": replaced}


def test_a_revoked_successor_is_no_successor(populated: Database) -> None:
    assert _found(populated, _made("a", NOW - 9 * DAY, NOW), _made("b", NOW - DAY, NOW)) == {"tokyo-1": NOW}
