"""Names as people write them: what is valid, what was probably meant. Pure.

Every name is a DNS label (RFC 1123 section 2.1, lower case) because it becomes a host name, a
certificate's CN and an IKE identity.
"""

import difflib
import re
from collections.abc import Iterable
from typing import Literal

from cloudside.errors import InputError

Kind = Literal["tenant", "site", "device", "server"]

#: Longest name of each kind; the registry's column widths. 63 is a DNS label's limit (RFC 1035 section 2.3.4).
MAX_CHARS: dict[Kind, int] = {"tenant": 40, "site": 63, "device": 40, "server": 40}
_BAD_NAME: dict[Kind, str] = {
    "tenant": "registry.bad-tenant-name",
    "site": "registry.bad-site-name",
    "device": "registry.bad-device-name",
    "server": "registry.bad-server-name",
}
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_SUGGESTED = 3
_LISTED = 5


def problems_of(kind: Kind, name: str) -> list[InputError]:
    """What is wrong with a new name: nothing, or one problem."""
    if _LABEL.fullmatch(name) is None or len(name) > MAX_CHARS[kind]:
        return [InputError(_BAD_NAME[kind], name=name[:80], longest=MAX_CHARS[kind])]
    return []


def closest(name: str, known: Iterable[str]) -> str:
    """The known names nearest to ``name``, for a message; the first few when none is near; a dash for none."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=_SUGGESTED, cutoff=0.5)
    return ", ".join(near or names[:_LISTED]) or "-"


def split_target(target: str) -> tuple[str, str | None]:
    """``tokyo-1`` is a site, ``tokyo-1/plc`` a device on it: (site, device or None)."""
    site, slash, device = target.partition("/")
    if not site or (slash and (not device or "/" in device)):
        raise InputError("registry.bad-target", target=target[:120])
    return site, device or None
