from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest

from cloudside.config import Config
from cloudside.errors import KyotenError
from cloudside.pki import revocation
from cloudside.registry import platform_policies, policies
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.vpn.desired import Desired, DesiredReader
from rules.evaluate import evaluate
from rules.model import Packet

NOW = datetime.now(UTC)


def _passes(found: Desired, source: str, destination: str, port: int = 80) -> bool:
    return evaluate(found.rule_set, Packet(ip_address(source), ip_address(destination), 6, port)).allowed


def test_registry_gives_prefixes_rules_and_credentials(database: Database, config: Config) -> None:
    found = DesiredReader(database, config).read(now=NOW)
    assert found.site_prefixes == {
        "tokyo": ip_network("10.10.1.0/24"),
        "osaka": ip_network("10.10.2.0/24"),
        "nagoya": ip_network("10.20.1.0/24"),
    }
    assert _passes(found, "10.10.1.5", "10.10.2.5")
    assert not _passes(found, "10.10.1.5", "10.20.1.5")
    assert found.problems == ()
    trust = DesiredReader(database, config).trust(now=NOW)
    assert trust.credentials is not None
    assert len(trust.credentials.authorities) == 3  # the cloud's and two tenants'
    assert trust.problems == ()


def test_revoked_site_leaves_and_its_neighbours_keep_their_grants(database: Database, config: Config) -> None:
    before = DesiredReader(database, config).read(now=NOW).rule_set.fingerprint
    with database.write() as session:
        revocation.revoke_site(session, config, OPERATOR, site_id="osaka", now=NOW)
    found = DesiredReader(database, config).read(now=NOW)
    assert "osaka" not in found.site_prefixes
    assert found.rule_set.fingerprint != before
    assert not _passes(found, "10.10.1.5", "10.10.2.5")
    assert _passes(found, "10.10.1.5", "10.255.0.10")
    assert [problem.key for problem in found.problems] == ["rules.unknown-name"]


def test_broken_policy_of_one_tenant_costs_nobody_else(database: Database, config: Config) -> None:
    with database.write() as session:
        policies.add_version(
            session, OPERATOR, tenant_id="birch", text="tenant: birch\nalow: []\n", file_name="p", author="t", now=NOW
        )
    found = DesiredReader(database, config).read(now=NOW)
    assert _passes(found, "10.10.1.5", "10.10.2.5")
    assert "rules.unknown-key" in {problem.key for problem in found.problems}
    assert dict(found.problems[0].params)["place"].startswith("p:2")


def test_the_platforms_file_stands_above_every_policy(database: Database, config: Config) -> None:
    assert _passes(DesiredReader(database, config).read(now=NOW), "10.10.1.5", "10.10.2.5")
    with database.write() as session:
        platform_policies.add_version(
            session, OPERATOR, text="forbidden: tcp\n", file_name="platform.yaml", author="t", now=NOW
        )
    assert not _passes(DesiredReader(database, config).read(now=NOW), "10.10.1.5", "10.10.2.5")


def test_missing_gateway_key_is_a_problem_and_rules_still_come(database: Database, config: Config) -> None:
    (config.state_directory / "pki" / "gateway-gw1.key").unlink()
    reader = DesiredReader(database, config)
    trust = reader.trust(now=NOW)
    assert trust.credentials is None
    assert [problem.key for problem in trust.problems] == ["pki.key-missing"]
    assert _passes(reader.read(now=NOW), "10.10.1.5", "10.10.2.5")


def test_revocation_list_past_its_end_is_told(database: Database, config: Config) -> None:
    later = NOW + timedelta(days=60)
    keys = [problem.key for problem in DesiredReader(database, config).trust(now=later).problems]
    assert keys.count("vpn.revocation-list-ended") == 3  # the root's lives a year


def test_registry_that_is_away_raises_ours(config: Config) -> None:
    away = Database(f"sqlite:///{config.state_directory / 'nowhere' / 'registry.sqlite'}")
    with pytest.raises(KyotenError):
        DesiredReader(away, config).read(now=NOW)
    away.close()


def _until(database: Database, end: str) -> None:
    text = (
        "tenant: acme\nallow:\n  - {from: tokyo, to: osaka, services: http, valid: {until: END, zone: UTC}}\n".replace(
            "END", end
        )
    )
    with database.write() as session:
        policies.add_version(session, OPERATOR, tenant_id="acme", text=text, file_name="p", author="t", now=NOW)


def test_a_statement_ends_on_time_also_while_the_registry_is_away(database: Database, config: Config) -> None:
    end = (NOW + timedelta(hours=1)).replace(second=0, microsecond=0)
    _until(database, f"{end:%Y-%m-%d %H:%M}")
    reader = DesiredReader(database, config)
    assert reader.later(now=NOW) is None
    found = reader.read(now=NOW)
    assert _passes(found, "10.10.1.5", "10.10.2.5")
    assert found.rule_set.next_change == end
    ended = reader.later(now=end)
    assert ended is not None
    assert not _passes(ended, "10.10.1.5", "10.10.2.5")
    assert ended.rule_set.next_change is None


def test_an_unmarked_change_is_found_by_a_whole_look(database: Database, config: Config) -> None:
    """A registry restored under us, or written past our sessions."""
    reader = DesiredReader(database, config)
    first = reader.read(now=NOW)
    assert reader.read(now=NOW, whole=False).parts == first.parts
    with database.write() as session:
        session.connection().exec_driver_sql("DELETE FROM policies")
    assert _passes(reader.read(now=NOW, whole=False), "10.10.1.5", "10.10.2.5")
    assert not _passes(reader.read(now=NOW), "10.10.1.5", "10.10.2.5")
