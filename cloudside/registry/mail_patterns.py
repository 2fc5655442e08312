"""Mail addresses as statements name them: one address, or all of a domain with a leading ``@``. Pure.

They are kept in lower case and compared so: the local part's case means nothing to any server that sites write to.
"""

from collections.abc import Sequence

from cloudside.errors import InputError
from cloudside.mail.address import valid

#: Of one credential or site. More is a policy that wants another form.
PATTERNS_MAX = 100


def address(text: str) -> str:
    """One address. Raises InputError."""
    found = text.strip().lower()
    if not valid(found):
        raise InputError("registry.bad-mail-address", address=text[:80])
    return found


def patterns(texts: Sequence[str], problems: list[InputError]) -> list[str]:
    """Addresses and domains, each once, in the order given; what is wrong with them goes to ``problems``."""
    found: dict[str, None] = {}
    for text in texts:
        word = text.strip().lower()
        if valid(f"x{word}" if word.startswith("@") else word):
            found[word] = None
        else:
            problems.append(InputError("registry.bad-mail-pattern", pattern=text[:80]))
    if len(found) > PATTERNS_MAX:
        problems.append(InputError("registry.many-mail-patterns", count=len(found), most=PATTERNS_MAX))
    return list(found)
