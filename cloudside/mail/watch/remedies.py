"""The commands that a notice names: to look, to hold, to release, to raise a limit for a day, to revoke. Pure.

Each is a pair: the key of a text that says what it does, and the command line. A test parses each with the real
command line, so that none is named that does not exist.
"""

import shlex
from collections.abc import Sequence

from cloudside.mail.model import Scope

Remedy = tuple[str, str]

#: How long a raised limit stays so.
RAISE_HOURS = 24
_OPTIONS = {Scope.SITE: "--site", Scope.DEVICE: "--device", Scope.TENANT: "--tenant"}
#: As many user names are named.
_USERS_MAX = 3


def _command(*words: str) -> str:
    return shlex.join(("kyoten", *words))


def of_flood(scope: Scope, name: str, *, origin: str, users: Sequence[str], reason: str) -> list[Remedy]:
    """Against too much mail. ``origin``: the site or server whose it is, "" for a tenant; ``users`` that sent it."""
    found = [("alerts.do-hold", _command("mail", "hold", _OPTIONS[scope], name, "--reason", reason))]
    found.append(("alerts.do-release", _command("mail", "release", _OPTIONS[scope], name)))
    raised = _command("mail", "limits", "raise", _OPTIONS[scope], name, "--for", f"{RAISE_HOURS}h")
    found.append(("alerts.do-raise", raised))
    found += [("alerts.do-revoke-user", _command("smtp", "revoke-user", user)) for user in users[:_USERS_MAX]]
    if origin and not users and not origin.startswith("server/"):
        found.append(("alerts.do-revoke-site", _command("site", "revoke", origin)))
    return [*of_look(origin), *found]


def of_unusual(origin: str, *, users: Sequence[str], reason: str) -> list[Remedy]:
    """Against mail that is unlike a site's own: no limit is to be raised."""
    found = of_flood(Scope.SITE, origin, origin=origin, users=users, reason=reason)
    return [remedy for remedy in found if remedy[0] != "alerts.do-raise"]


def of_look(origin: str) -> list[Remedy]:
    """To look at somebody's mail."""
    return [("alerts.do-trace", _command("mail", "trace", origin))] if origin else of_queue()


def of_queue() -> list[Remedy]:
    """To look at what waits."""
    return [("alerts.do-queue", _command("mail", "queue"))]


def of_parked(messages: Sequence[str]) -> list[Remedy]:
    """For mail that relays ended on."""
    found = [("alerts.do-trace-message", _command("mail", "trace", messages[0]))]
    found.append(("alerts.do-try-again", _command("mail", "release", *messages)))
    return [*found, ("alerts.do-drop", _command("mail", "drop", *messages, "--reason", "poison"))]


def of_user(user: str, origin: str) -> list[Remedy]:
    """Against a user name in wrong hands."""
    found = [("alerts.do-rotate-user", _command("smtp", "rotate", user, "--grace", "none"))] if user else []
    if user:
        found.append(("alerts.do-revoke-user", _command("smtp", "revoke-user", user)))
    return [*found, *(of_look(origin) if origin else [("alerts.do-users", _command("smtp", "list"))])]


def of_silence(origin: str) -> list[Remedy]:
    """When mail is missing."""
    if origin.startswith("server/"):
        return of_look(origin)
    return [("alerts.do-diagnose", _command("site", "diagnose", origin)), *of_look(origin)]
