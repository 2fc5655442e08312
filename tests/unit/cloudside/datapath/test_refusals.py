from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from cloudside.datapath.refusals import Triple, judged, parse_refused, service_written
from cloudside.messages import LANGUAGES, catalogue
from cloudside.registry.counted import Refused
from rules.compile import RuleSet, compile_policy
from rules.model import Device, Inventory, PolicySource, Server, Site
from rules.parse import parse

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
SAVED = """create kyoten-refused hash:ip,port,ip family inet hashsize 4096 maxelem 8192 timeout 600
add kyoten-refused 10.10.1.1,icmp:15/0,10.255.0.10 timeout 599
add kyoten-refused 10.10.1.1,icmp:echo-request,10.255.0.10 timeout 600
add kyoten-refused 10.10.1.1,tcp:23,10.255.0.10 timeout 540
add kyoten-refused 10.10.1.1,gre:0,10.255.0.10 timeout 1
add kyoten-refused 10.10.1.1,200:0,10.255.0.10 timeout 0
add kyoten-sites 10.10.1.0/24
nonsense
"""
INVENTORY = Inventory(
    tenants={"acme": ip_network("10.10.0.0/16"), "birch": ip_network("10.20.0.0/16")},
    sites=(
        Site("tokyo", "acme", ip_network("10.10.1.0/24")),
        Site("osaka", "acme", ip_network("10.10.2.0/24")),
        Site("nagoya", "birch", ip_network("10.20.1.0/24")),
    ),
    devices=(Device("tokyo", "plc", ip_address("10.10.1.20")),),
    servers=(Server("web", None, ip_address("10.255.0.10")),),
)
POLICY = """
tenant: acme
allow: [{name: open, from: [tokyo, osaka], to: web, services: any}]
deny: [{name: no-telnet, from: tokyo/plc, to: web, services: tcp/23}]
"""


def _rule_set() -> RuleSet:
    return compile_policy(parse([PolicySource("acme", "p.yaml", POLICY)], INVENTORY), INVENTORY)


def _judged(source: str, destination: str, port: int = 80) -> Refused | None:
    return next(judged(_rule_set(), [(Triple(source, 6, port, destination), NOW)]), None)


def test_the_set_is_read() -> None:
    found = parse_refused(SAVED)
    assert found == {
        Triple("10.10.1.1", 1, 15 * 256, "10.255.0.10"): 1,
        Triple("10.10.1.1", 1, 8 * 256, "10.255.0.10"): 0,
        Triple("10.10.1.1", 6, 23, "10.255.0.10"): 60,
        Triple("10.10.1.1", 47, 0, "10.255.0.10"): 599,
        Triple("10.10.1.1", 200, 0, "10.255.0.10"): 600,
    }
    written = [service_written(triple.protocol, triple.selector) for triple in found]
    assert written == ["icmp/15/0", "icmp/8/0", "tcp/23", "ip/47", "ip/200"]


def test_denied_names_the_statement_and_the_ends() -> None:
    one = _judged("10.10.1.20", "10.255.0.10", 23)
    assert one is not None
    assert (one.tenant, one.source, one.destination, one.service) == ("acme", "tokyo/plc", "web", "tcp/23")
    assert (one.reason, one.statements) == ("rules.denied", ("acme/no-telnet",))


def test_no_statement() -> None:
    one = _judged("10.10.1.7", "10.10.2.1")
    assert one is not None
    assert (one.source, one.destination, one.reason, one.statements) == ("tokyo", "osaka", "rules.no-statement", ())


def test_what_would_pass_now_is_told_as_such_in_both_languages() -> None:
    one = _judged("10.10.1.7", "10.255.0.10")
    assert one is not None
    assert (one.reason, one.statements) == ("datapath.refused-would-pass", ())
    for language in LANGUAGES:
        assert catalogue(language)[one.reason].format(**one.params)


def test_another_tenants_name_is_not_told() -> None:
    one = _judged("10.10.1.7", "10.20.1.1")
    assert one is not None
    assert (one.tenant, one.destination, one.reason) == ("acme", "10.20.1.1", "rules.unknown-destination")
    assert "nagoya" not in repr(one)


def test_server_towards_a_site_belongs_to_the_site() -> None:
    one = _judged("10.255.0.10", "10.20.1.1")
    assert one is not None
    assert (one.tenant, one.source, one.destination) == ("birch", "web", "nagoya")


def test_unknown_source_belongs_to_the_destination_and_unknown_ends_to_nobody() -> None:
    one = _judged("10.99.0.1", "10.20.1.1")
    assert one is not None
    assert (one.tenant, one.source, one.reason) == ("birch", "10.99.0.1", "rules.unknown-source")
    assert _judged("10.99.0.1", "10.98.0.1") is None
