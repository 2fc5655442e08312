from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from rules.compile import compile_policy
from rules.model import Inventory, Policy, PolicySource, Protocol, Server, Service
from rules.parse import parse, parse_stored
from rules.problems import PolicyError
from rules.reach import Reach, reach

Read = Callable[[str], Policy]


def _problems(read: Read, text: str) -> list[tuple[str, int, int]]:
    with pytest.raises(PolicyError) as caught:
        read(text)
    return [(found.kind.removeprefix("rules."), found.line, found.column) for found in caught.value.problems]


def test_a_statement_is_read_whole(read: Read) -> None:
    policy = read(
        """
groups: {plant: [tokyo-1, osaka-1/plc]}
services: {hvac: [udp/47808, tcp/502]}
allow:
  - name: readings
    from: plant
    to: [web, osaka-1]
    services: [hvac, bacnet-ip, tcp/8000-8010]
    both: true
    owner: Building team
    reason: Monthly report
"""
    )
    (statement,) = policy.statements
    assert statement.id == "acme/readings"
    assert statement.sources == {"tokyo-1", "osaka-1/plc"}
    assert statement.destinations == {"web", "osaka-1"}
    assert [(one.protocol, one.low, one.high) for one in statement.services] == [
        *((6, 502, 502), (6, 8000, 8010), (17, 47808, 47808))
    ]
    assert (statement.both, statement.owner, statement.reason) == (True, "Building team", "Monthly report")
    assert str(statement.place) == "acme.yaml:6:5"


def test_everything_wrong_is_told_at_once_with_its_place(read: Read) -> None:
    text = """foo: 1
groups:
  Plant: [tokyo-1]
  pair: [tokyo-2, pair]
services: {ssh: tcp/2222, mine: [tcp/0, tcp/9-1, telepathy]}
allow:
  - {from: tokyo-1, to: osaka-1, services: [htps], both: yes}
  - {from: tokyo-1, services: [], nonsense: 1}
  - tokyo-1
"""
    assert _problems(read, text) == [
        ("unknown-key", 2, 1),
        ("bad-name", 4, 3),
        ("unknown-name-similar", 5, 10),
        ("group-in-group", 5, 19),
        ("service-built-in", 6, 12),
        ("bad-service-number", 6, 34),
        ("bad-service-number", 6, 41),
        ("unknown-service", 6, 50),
        ("unknown-service-similar", 8, 45),
        ("expected-true-false", 8, 58),
        ("missing-key", 9, 5),
        ("empty-list", 9, 31),
        ("unknown-key", 9, 35),
        ("expected-mapping", 10, 5),
    ]


@pytest.mark.parametrize("foreign", ["kobe-1", "kobe-1/meter", "vault"])
def test_another_tenants_name_is_as_unknown_as_none(read: Read, foreign: str) -> None:
    for ends in (f"from: tokyo-1, to: {foreign}", f"from: {foreign}, to: tokyo-1"):
        assert [kind for kind, _, _ in _problems(read, f"allow: [{{{ends}, services: any}}]")] == ["unknown-name"]
    assert [kind for kind, _, _ in _problems(read, f"groups: {{g: [{foreign}]}}")] == ["unknown-name"]


@pytest.mark.parametrize(
    ("ends", "kind"),
    [
        ("from: tokyo-1, to: tokyo-1", "same-site"),
        ("from: osaka-1, to: osaka-1/plc", "same-site"),
        ("from: web, to: db", "between-servers"),
    ],
)
def test_what_never_passes_the_gateway_is_no_statement(read: Read, ends: str, kind: str) -> None:
    assert _problems(read, f"allow: [{{{ends}, services: any}}]") == [(kind, 2, 9)]


def test_groups_inside_groups_hand_their_members_up(read: Read) -> None:
    policy = read(
        "groups:\n  c: {members: [web], inside: b}\n  b: {members: [osaka-1/plc], inside: a}\n  a: [tokyo-1]\n"
        "allow: [{from: a, to: osaka-1, services: ssh}]"
    )
    assert policy.statements[0].sources == {"tokyo-1", "osaka-1/plc", "web"}
    assert [(one.group, set(one.members)) for one in policy.nested] == [
        *(("b", {"osaka-1/plc", "web"}), ("c", {"web"}))
    ]


def test_groups_that_may_share_no_site(read: Read) -> None:
    text = "groups: {a: [tokyo-1, web], b: [osaka-1/plc, web], c: [osaka-1]}\nforbid-dual-membership: [[%s]]"
    read(text % "a, b")
    assert _problems(read, text % "a, b, c") == [("dual-membership", 3, 33)]
    assert _problems(read, text % "a, x") == [("unknown-group", 3, 30)]
    assert _problems(read, text % "a") == [("two-groups-needed", 3, 26)]


def test_a_group_may_speak_to_itself(read: Read) -> None:
    assert len(read("groups: {g: [tokyo-1, osaka-1]}\nallow: [{from: g, to: g, services: ping}]").statements) == 1


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("groups: &a {}", "alias", 2),
        ("groups: {g: *a}", "alias", 2),
        ("groups: !!map {}", "tag", 2),
        ("groups: {}\ngroups: {}", "duplicate-key", 3),
        ("? [a]\n: 1", "key-not-text", 2),
        ("---\nb: 1", "many-documents", 2),
        ("groups: [", "not-yaml", 3),
        ("groups: \x00", "not-yaml", 2),
        ("groups: " + "[" * 50, "too-deep", 2),
        ("groups: [a]", "expected-names", 2),
        ("allow: {}", "expected-list", 2),
        ("allow: [{from: {}, to: web, services: ssh}]", "expected-text", 2),
        ("allow: [{from: tokyo-1, to: web, services: ssh, owner: " + "x" * 501 + "}]", "text-too-long", 2),
        ("groups: {tokyo-1: [web]}", "name-taken", 2),
        ("groups: {a: {members: [web], inside: a}}", "group-cycle", 2),
        ("groups:\n a: {members: [web], inside: b}\n b: {members: [web], inside: a}", "group-cycle", 4),
        ("groups: {a: {members: [web], inside: b}}", "unknown-group", 2),
        ("groups: {a: {inside: a}}", "missing-key", 2),
    ],
)
def test_malformed(read: Read, text: str, kind: str, line: int) -> None:
    assert (kind, line) in [(found, at) for found, at, _ in _problems(read, text)]


def test_a_file_without_anything_is_told_so(inventory: Inventory) -> None:
    with pytest.raises(PolicyError) as caught:
        parse([PolicySource("acme", "acme.yaml", "# nothing\n")], inventory)
    assert [found.kind for found in caught.value.problems] == ["rules.empty"]


def test_the_file_has_to_be_the_tenants_own(inventory: Inventory) -> None:
    sources = [
        PolicySource("acme", "a.yaml", "tenant: zeta"),
        PolicySource("ghost", "b.yaml", "tenant: ghost"),
        PolicySource("acme", "c.yaml", "tenant: acme"),
    ]
    with pytest.raises(PolicyError) as caught:
        parse(sources, inventory)
    assert [(found.file, found.kind) for found in caught.value.problems] == [
        *(("a.yaml", "rules.wrong-tenant"), ("b.yaml", "rules.no-such-tenant"), ("c.yaml", "rules.two-files"))
    ]


def test_identity_is_the_name_or_the_content(read: Read) -> None:
    one = read("allow: [{from: tokyo-1, to: [web, db], services: [ssh, http]}]").statements[0].id
    other = (
        read("\n\nallow:\n- {services: [tcp/80, tcp/22], to: [db, web], from: [tokyo-1], owner: me}").statements[0].id
    )
    third = read("allow: [{from: tokyo-1, to: [web, db], services: [ssh]}]").statements[0].id
    assert one == other != third
    assert one.startswith("acme/~")


def test_the_same_identity_twice(read: Read) -> None:
    twice = (
        "allow:\n- {name: a, from: tokyo-1, to: web, services: ssh}\n- {name: a, from: tokyo-1, to: db, services: ssh}"
    )
    assert _problems(read, twice) == [("same-name", 4, 3)]
    assert _problems(read, twice.replace("name: a, ", "").replace("db", "web")) == [("same-statement", 4, 3)]


def test_stored_policies_outlive_their_sites(inventory: Inventory) -> None:
    text = """tenant: acme
groups: {pair: [tokyo-1, osaka-1]}
allow:
  - {name: gone, from: osaka-1, to: web, services: ssh}
  - {name: rest, from: pair, to: pair, services: ssh}
  - {name: stays, from: tokyo-1, to: [web, osaka-1/plc], services: ssh}
"""
    sources = [PolicySource("acme", "acme.yaml", text), PolicySource("zeta", "zeta.yaml", "tenant: [broken")]
    without = replace(inventory, sites=tuple(site for site in inventory.sites if site.name != "osaka-1"))
    policy, told = parse_stored(sources, without)
    assert {one.id: set(one.destinations) for one in policy.statements} == {
        "acme/gone": {"web"},
        "acme/rest": {"tokyo-1", "osaka-1"},
        "acme/stays": {"web", "osaka-1/plc"},
    }
    assert reach(compile_policy(policy, without), "tokyo-1") == (
        Reach("tokyo-1", "web", Service(Protocol.TCP, 22, 22)),
    )
    assert {found.kind for found in told if found.file == "acme.yaml"} == {"rules.unknown-name", "rules.same-site"}
    assert [found.kind for found in told if found.file == "zeta.yaml"] == ["rules.not-yaml"]


def test_a_stored_group_keeps_its_meaning_when_a_server_takes_its_name(inventory: Inventory) -> None:
    text = "tenant: acme\ngroups: {pair: [tokyo-1]}\nallow: [{from: pair, to: osaka-1, services: ssh}]"
    grown = replace(inventory, servers=(*inventory.servers, Server("pair", None, ip_address("10.200.0.99"))))
    policy, told = parse_stored([PolicySource("acme", "acme.yaml", text)], grown)
    assert policy.statements[0].sources == {"tokyo-1"}
    assert [found.kind for found in told] == ["rules.name-taken"]


def test_an_inconsistent_inventory_stops_both(inventory: Inventory) -> None:
    wrong = replace(inventory, tenants={"acme": ip_network("10.0.0.0/8"), "zeta": ip_network("10.20.0.0/16")})
    for reading in (parse, parse_stored):
        with pytest.raises(PolicyError) as caught:
            reading([], wrong)
        assert "rules.tenant-blocks-overlap" in {found.kind for found in caught.value.problems}
