"""The groups of a tenant's file: flat ones, groups inside groups, groups that no site may share."""

from collections.abc import Callable

from rules.document import Entries, Node, Scalar
from rules.model import Nested
from rules.names import Names
from rules.shapes import Shapes, short

_KEYS = ("members", "inside")
#: As many names of a long list as a message shows.
_SHOWN = 5


def read_groups(file: Shapes, node: Node, names: Names, unknown: Callable[[Scalar], None]) -> None:
    """Give ``names`` the groups; members of a group are members of the groups around it too."""
    definitions = file.new_names(node)
    group_names = {key.text for key, _ in definitions}
    members: dict[str, set[str]] = {}
    inside: dict[str, Scalar] = {}
    for key, value in definitions:
        if names.endpoint(key.text) is not None:
            file.wrong("rules.name-taken", key, name=key.text)
        listed: Node | None = value
        if isinstance(value, Entries):
            keys = file.mapping(value, _KEYS, ("members",)) or {}
            listed = keys.get("members")
            outer = file.text(keys["inside"]) if "inside" in keys else None
            if outer is not None and outer.text in group_names:
                inside[key.text] = outer
            elif outer is not None:
                file.wrong("rules.unknown-group", outer, name=short(outer.text))
        members[key.text] = set()
        for member in [] if listed is None else file.texts(listed):
            if member.text in group_names:
                file.wrong("rules.group-in-group", member, name=member.text)
            elif names.endpoint(member.text) is not None:
                members[key.text].add(member.text)
            else:
                unknown(member)
    around = {name: _around(name, inside) for name in members}
    for name, outers in around.items():
        if name in outers:
            file.wrong("rules.group-cycle", inside[name], name=name)
        for outer_name in outers:
            members[outer_name] |= members[name]
    for name, found in members.items():
        names.add_group(name, found, nested=name in inside)


def _around(name: str, inside: dict[str, Scalar]) -> list[str]:
    """The groups around this one, from the inside out; in a circle it is among them itself."""
    found: list[str] = []
    while name in inside and inside[name].text not in found:
        name = inside[name].text
        found.append(name)
    return found


def nested_groups(tenant: str, names: Names) -> list[Nested]:
    """The groups that are inside another."""
    return [Nested(tenant, name, members) for name, members in names.nested()]


def check_dual_membership(file: Shapes, node: Node, names: Names) -> None:
    """Tell each site that is, with any of its devices, in two groups that may share none."""
    listed = file.items(node)
    for item in [] if listed is None else listed.items:
        written = file.texts(item)
        if len(written) < 2:
            file.wrong("rules.two-groups-needed", item)
        seen: list[tuple[str, set[str]]] = []
        for text in written:
            members = names.group(text.text)
            if members is None:
                file.wrong("rules.unknown-group", text, name=short(text.text))
                continue
            sites = {
                one.site for member in members if (one := names.endpoint(member)) is not None and one.site is not None
            }
            for other, theirs in seen:
                if both := sorted(sites & theirs):
                    shown = ", ".join(both[:_SHOWN]) + (", …" if len(both) > _SHOWN else "")
                    file.wrong("rules.dual-membership", text, first=other, second=text.text, sites=shown)
            seen.append((text.text, sites))
