"""Any text is accepted or raises our error, with places inside the text and texts for people in both languages."""

import json
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from rules_worlds import World, worlds

from cloudside.messages import catalogue
from rules.advice import advise
from rules.compile import compile_policy
from rules.expect import check
from rules.model import Inventory, PolicySource
from rules.parse import Drafts, parse, parse_stored
from rules.problems import PolicyError
from rules.schema import tenant_schema

_WORDS = [
    *(
        "tenant",
        "groups",
        "services",
        "allow",
        "deny",
        "forbid-dual-membership",
        "members",
        "inside",
        "from",
        "to",
        "both",
        "name",
        "owner",
        "reason",
        "expect",
        "acme",
        "zeta-1",
    ),
    *("acme-1", "acme-1/d1", "g", "s0", "tcp/80", "tcp/0", "tcp/9-1", "udp/99999", "icmp/8/300", "any", "true", "yes"),
    *(
        ": ",
        "- ",
        "\n",
        "  ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "&a ",
        "*a",
        "!!python/object:os.system ",
        "!x ",
        "? ",
        "| ",
        ">",
    ),
    *(
        "'",
        '"',
        "#",
        "%YAML 9.9\n",
        "---\n",
        "...\n",
        "\t",
        "\x00",
        "\ufeff",
        "\U0001f600",
        "\ud800",
        "<<: ",
        "~",
        "\\U",
    ),
    *("acme-1 can reach s0 tcp/80", "acme-1 cannot reach acme-1/d1 any,", " can reach ", "'", "s0 cannot reach g ssh"),
    *('"\\UFFFFFFFF"', "\x85", "\u2028", "٣", "tcp/٣", "1e9", "0x1f", "2020-01-01", "=", "\r", "\x7f"),
]
EMPTY = Inventory({}, (), (), ())
NOW = datetime(2026, 11, 1, tzinfo=UTC)
SHAPE = Draft202012Validator(tenant_schema(str))


def _only_our_error(text: str, inventory: Inventory) -> None:
    source = PolicySource("acme", "acme.yaml", text)
    try:
        policy = parse([source], inventory)
    except PolicyError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.file == "acme.yaml"
            assert problem.line >= 1
            assert problem.column >= 1
            assert problem.line <= len(text.splitlines()) + 2
            for language in ("en", "ja"):
                assert catalogue(language)[problem.kind].format_map(dict(problem.params))
        policy, told = parse_stored([source], inventory)
        assert {problem.kind for problem in told} <= {problem.kind for problem in error.problems}
    else:
        assert parse_stored([source], inventory) == (policy, ())
    rule_set = compile_policy(policy, inventory, at=NOW)
    for problem in (*check(rule_set, policy), *advise(policy, inventory, NOW)):
        assert problem.line >= 1
        for language in ("en", "ja"):
            assert catalogue(language)[problem.kind].format_map(dict(problem.params))
    _kept_drafts_tell_the_same(source, inventory)


def _kept_drafts_tell_the_same(source: PolicySource, inventory: Inventory) -> None:
    """Whatever came and went in between, a kept draft tells what a first reading does."""
    drafts = Drafts()
    smaller = replace(inventory, sites=inventory.sites[1:], servers=inventory.servers[1:])
    for held in (inventory, smaller, EMPTY, inventory):
        assert parse_stored([source], held, drafts=drafts) == parse_stored([source], held)


@given(st.text() | st.lists(st.sampled_from(_WORDS), max_size=40).map("".join))
@example("[" * 100_000)
@example("{" * 5_000)
@example("- " * 5_000)
@example("a: &x [*x]")
@example("a: &a [1]\nb: &b [*a,*a]\nc: [*b,*b]")
@example("? [a]\n: 1")
@example("\x00")
@example("\ud800")
@example("tenant: acme\n---\ntenant: acme\n")
@example('"\\UFFFFFFFF"')
@example("")
@example("%YAML 3.0\n---\na: b")
@settings(max_examples=200, deadline=None)
def test_any_text(text: str) -> None:
    _only_our_error(text, EMPTY)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(_WORDS[:28]) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS[:20]), inner, max_size=5),
    max_leaves=25,
)


@given(worlds(), _ANYTHING)
@settings(max_examples=40, deadline=None)
def test_any_document(world: World, document: object) -> None:
    """Well-formed YAML of the right words in wrong places."""
    wrapped = document if not isinstance(document, dict) else {"tenant": "acme"} | document
    _only_our_error(json.dumps(wrapped), world.inventory)
    _no_schema_refuses_what_is_read(wrapped, world.inventory)


@given(worlds())
@settings(max_examples=20, deadline=None)
def test_a_good_document_has_the_schemas_shape(world: World) -> None:
    for document in world.policies.values():
        assert SHAPE.is_valid(document)


def _no_schema_refuses_what_is_read(document: object, inventory: Inventory) -> None:
    try:
        parse([PolicySource("acme", "acme.yaml", json.dumps(document))], inventory)
    except PolicyError:
        return
    assert SHAPE.is_valid(document)


@given(worlds(), st.data())
@settings(max_examples=40, deadline=None)
def test_a_damaged_policy(world: World, data: st.DataObject) -> None:
    """A real policy with a piece cut out, doubled, or replaced."""
    text = json.dumps(world.policies["acme"], indent=1)
    low = data.draw(st.integers(0, len(text)))
    high = data.draw(st.integers(low, min(len(text), low + 30)))
    piece = data.draw(st.sampled_from(["", text[low:high] * 2, *_WORDS]))
    _only_our_error(text[:low] + piece + text[high:], world.inventory)
