"""The groups of a tenant's file: flat ones, groups inside groups, groups that no site may share."""

from collections.abc import Callable, Mapping

from rules.document import Entries, Node, Scalar
from rules.draft import Group
from rules.keys import GROUP
from rules.shapes import Shapes, short


def read_groups(file: Shapes, node: Node, mention: Callable[[Scalar], None]) -> dict[str, Group]:
    """The groups by name; members of a group are members of the groups around it too. Each member that is to be an
    endpoint is given to ``mention``.
    """
    definitions = file.new_names(node)
    group_names = {key.text for key, _ in definitions}
    members: dict[str, set[str]] = {}
    doubled: dict[str, list[Scalar]] = {}
    inside: dict[str, Scalar] = {}
    for key, value in definitions:
        listed: Node | None = value
        if isinstance(value, Entries):
            keys = file.mapping(value, GROUP) or {}
            listed = keys.get("members")
            outer = file.text(keys["inside"]) if "inside" in keys else None
            if outer is not None and outer.text in group_names:
                inside[key.text] = outer
            elif outer is not None:
                file.wrong("rules.unknown-group", outer, name=short(outer.text))
        members[key.text] = set()
        doubled[key.text] = []
        for member in [] if listed is None else file.texts(listed):
            if member.text in group_names:
                file.wrong("rules.group-in-group", member, name=member.text)
            else:
                if member.text in members[key.text]:
                    doubled[key.text].append(member)
                members[key.text].add(member.text)
                mention(member)
    around = {name: _around(name, inside) for name in members}
    for name, outers in around.items():
        if name in outers:
            file.wrong("rules.group-cycle", inside[name], name=name)
        for outer_name in outers:
            members[outer_name] |= members[name]
    outer_names = {outer.text for outer in inside.values()}
    return {
        key.text: Group(
            key,
            frozenset(members[key.text]),
            key.text in inside,
            key.text in outer_names,
            tuple(doubled[key.text]),
        )
        for key, _ in definitions
    }


def _around(name: str, inside: dict[str, Scalar]) -> list[str]:
    """The groups around this one, from the inside out; in a circle it is among them itself."""
    found: list[str] = []
    while name in inside and inside[name].text not in found:
        name = inside[name].text
        found.append(name)
    return found


def read_apart(
    file: Shapes, node: Node, groups: Mapping[str, Group]
) -> tuple[tuple[tuple[Scalar, frozenset[str]], ...], ...]:
    """The lists of groups that may share no site, with their members."""
    listed = file.items(node)
    rows = []
    for item in [] if listed is None else listed.items:
        written = file.texts(item)
        if len(written) < 2:
            file.wrong("rules.two-groups-needed", item)
        row = []
        for text in written:
            if (group := groups.get(text.text)) is None:
                file.wrong("rules.unknown-group", text, name=short(text.text))
            else:
                row.append((text, group.members))
        rows.append(tuple(row))
    return tuple(rows)
