"""What nft gives back of a table, in the form that rules.render_nft has it: sets from JSON, chains from text."""

import json
import re
from ipaddress import IPv4Address, IPv4Network

from linux.runner import SubprocessRunner
from rules.render_nft import GUARD, NftSet, NftTable, build, flip, guard_script, removal, table_name, versions

NFT = SubprocessRunner(["ip", "netns", "exec", "rk-gateway"])
_CHAIN = re.compile(r"^\tchain (\S+) \{\n(.*?)^\t\}$", re.MULTILINE | re.DOTALL)
#: How nft shows a mask whose bits are the highest, and one of all bits.
_PREFIX = re.compile(r"meta mark != 0x00000000(?:/([0-9]+))?")
#: nft's numeric listing says these as numbers too.
_WORDS = {
    "priority 0;": "priority filter;",
    "priority -10;": "priority filter - 10;",
    "nfproto != 2 ": "nfproto != ipv4 ",
    "state != 0x8 ": "state != new ",
    "state 0x8 ": "state new ",
    "state 0x2,0x4 ": "state established,related ",
}


def nft(script: str) -> None:
    """One script, one transaction."""
    NFT.run(["nft", "-f", "-"], stdin=script, timeout_s=60)


def present() -> list[int]:
    """The versions that there are."""
    return versions(NFT.run(["nft", "list", "tables"]).stdout)


def put(table: NftTable) -> int:
    """Put a rule set in force as a gateway does, in place of whatever is; the version that it became."""
    old = present()
    version = max(old, default=0) + 1
    nft(build(table, version))
    nft(flip(version, old))
    nft(removal(old))
    return version


def remove() -> None:
    """Take everything of ours away."""
    nft(guard_script() + removal(present()) + f"delete table {GUARD}\n")


def sets(version: int) -> dict[str, NftSet]:
    """Every named set and map of the version."""
    found = {}
    for item in json.loads(NFT.run(["nft", "-nn", "-j", "list", "ruleset"], timeout_s=60).stdout)["nftables"]:
        content = item.get("set") or item.get("map")
        if content is None or [content["family"], content["table"]] != table_name(version).split():
            continue
        assert content["flags"] == ["interval"]
        fields = [content["type"]] if isinstance(content["type"], str) else content["type"]
        value = content.get("map")
        elements = {}
        for one in content.get("elem", []):
            key, said = (one, None) if value is None else one
            parts = key["concat"] if isinstance(key, dict) and "concat" in key else [key]
            elements[tuple(map(_range, parts))] = _value(said)
        found[content["name"]] = NftSet(tuple(fields), elements, value)
    return found


def _range(part: object) -> tuple[int, int]:
    if isinstance(part, dict) and "range" in part:
        low, high = part["range"]
        return _number(low), _number(high)
    if isinstance(part, dict):
        network = IPv4Network((part["prefix"]["addr"], part["prefix"]["len"]))
        return int(network[0]), int(network[-1])
    return _number(part), _number(part)


def _number(said: object) -> int:
    return said if isinstance(said, int) else int(IPv4Address(said))


def _value(said: object) -> int | str | None:
    if isinstance(said, dict):
        return f"goto {said['goto']['target']}"
    assert said is None or isinstance(said, int)
    return said


def _highest(bits: int) -> int:
    return (1 << 32) - (1 << (32 - bits))


def chains(table: str) -> dict[str, tuple[str, ...]]:
    """Every chain of a table, rule by rule."""
    text = NFT.run(["nft", "-nn", "-s", "list", "table", *table.split()], timeout_s=60).stdout
    for number, word in _WORDS.items():
        text = text.replace(number, word)
    text = _PREFIX.sub(lambda found: f"meta mark & {_highest(int(found[1] or 32)):#010x} != 0x00000000", text)
    return {name: tuple(line.strip() for line in body.splitlines()) for name, body in _CHAIN.findall(text)}
