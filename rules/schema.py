"""The JSON Schemas of our files, for editors. Made of the tables that the parser uses, so the two cannot differ.

They speak of shape: keys, lists, forms of words. Which names exist and what passes, the parser alone says.
"""

import re
from collections.abc import Callable, Mapping

from rules.keys import GROUP, LIMITS, PLATFORM_FILE, SERVER, STATEMENT, TENANT_FILE, VALIDITY, Keys, Shape
from rules.platform_file import LIMIT_MAX
from rules.services import BUILT_IN
from rules.shapes import NAME, TEXT_MAX_CHARS, ZONE
from rules.tenant_file import EXPECTATION
from rules.validity import MOMENT, WEEKLY

_NAMED_GROUP = re.compile(r"\(\?P<\w+>")
Words = Callable[[str], str]
Schema = dict[str, object]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# An unquoted number, true or date is a text to the parser, and something else to an editor.
_TEXT: Schema = {"type": ["string", "number", "boolean"], "minLength": 1}
_NUMBERED = (
    r"^((tcp|udp)(/[0-9]{1,5}(-[0-9]{1,5})?)?|(icmp|icmpv6)(/([a-z-]+|[0-9]{1,3})(/[0-9]{1,3})?)?"
    r"|[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)$"
)


def tenant_schema(words: Words) -> Schema:
    """The schema of a tenant's file. ``words`` gives the text of a message key in some language."""
    return _Writer(words).document("rules.about-tenant-file", TENANT_FILE)


def platform_schema(words: Words) -> Schema:
    """The schema of the platform's file."""
    return _Writer(words).document("rules.about-platform-file", PLATFORM_FILE)


class _Writer:
    def __init__(self, words: Words) -> None:
        self._words = words

    def document(self, about: str, keys: Keys) -> Schema:
        return {"$schema": _DIALECT, "title": self._words(about), **self._mapping(keys)}

    def _mapping(self, keys: Keys) -> Schema:
        found: Schema = {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                name: {"description": self._words(key.about), **self._shape(key.shape)}
                for name, key in keys.by_name.items()
            },
        }
        return found | ({"required": list(keys.needed)} if keys.needed else {})

    def _shape(self, shape: Shape) -> Schema:
        simple = _SIMPLE.get(shape)
        return simple if simple is not None else self._built(shape)

    def _built(self, shape: Shape) -> Schema:
        match shape:
            case Shape.STATEMENTS:
                return {"type": "array", "items": self._mapping(STATEMENT)}
            case Shape.GROUPS:
                return _named({"anyOf": [_SIMPLE[Shape.MEMBERS], self._mapping(GROUP)]})
            case Shape.VALIDITY:
                return self._mapping(VALIDITY)
            case Shape.SERVERS:
                return {"type": "object", "additionalProperties": self._mapping(SERVER)}
            case Shape.LIMITS:
                return self._mapping(LIMITS)
            case Shape.LIMITS_OF_TENANTS:
                return {"type": "object", "additionalProperties": self._mapping(LIMITS)}
        raise KeyError(shape)


def _named(values: Schema) -> Schema:
    """A mapping from names that the file defines."""
    return {"type": "object", "propertyNames": {"pattern": _whole(NAME.pattern)}, "additionalProperties": values}


def _some(one: Schema) -> Schema:
    """One, or a list of them."""
    return {"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]}


def _whole(pattern: str) -> str:
    """The pattern for all of the text. Groups lose their names, which Python and JavaScript write differently."""
    return f"^({_NAMED_GROUP.sub('(', pattern)})$"


def _text(pattern: str, **more: object) -> Schema:
    return {"type": "string", "pattern": _whole(pattern), **more}


_SERVICE: Schema = {"type": "string", "pattern": _NUMBERED, "examples": sorted(BUILT_IN)}
_SIMPLE: Mapping[Shape, Schema] = {
    Shape.TEXT: _TEXT,
    Shape.TENANT: _TEXT,
    Shape.NAME: {**_TEXT, "pattern": _whole(NAME.pattern)},
    Shape.REMARK: {**_TEXT, "maxLength": TEXT_MAX_CHARS},
    Shape.FLAG: {"type": "boolean"},
    Shape.LIMIT: {"type": "integer", "minimum": 0, "maximum": LIMIT_MAX},
    Shape.MOMENT: _text(MOMENT.pattern),
    Shape.ZONE: _text(ZONE.pattern, examples=["Asia/Tokyo", "UTC"]),
    Shape.WEEKLY: _some(_text(WEEKLY.pattern)),
    Shape.MEMBERS: _some(_TEXT),
    Shape.SERVICES: _some(_SERVICE),
    Shape.SERVICES_OR_NONE: _some(_SERVICE),
    Shape.OWN_SERVICES: _named(_some(_SERVICE)),
    Shape.GROUP_LISTS: {"type": "array", "items": {"type": "array", "minItems": 2, "items": _TEXT}},
    Shape.EXPECTATIONS: {"type": "array", "items": _text(EXPECTATION.pattern.replace(" ", r"\s+"))},
}
