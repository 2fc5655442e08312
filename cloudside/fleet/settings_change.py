"""A person changes a site's settings: read what was typed, state it, wait for what becomes of it on the router."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cloudside.errors import InputError, UnavailableError, combined
from cloudside.fleet.settings_keys import SETTING_KEYS, SettingValue
from cloudside.registry import settings
from cloudside.registry.callers import Caller
from cloudside.registry.database import Database
from cloudside.registry.names import closest
from cloudside.registry.settings import State
from cloudside.registry.tables import Settings

#: Seconds between looks at the registry while waiting.
_LOOK_S = 0.2

_SECRET_MAX_CHARS = 200


def read_secret_file(where: str) -> str:
    """The first line of the file in ``@FILE``. Raises ValueError: it is not of that form; OSError: not readable."""
    if not where.startswith("@") or len(where) < 2:
        raise ValueError
    with Path(where[1:]).open(encoding="utf-8") as stream:
        return stream.readline(_SECRET_MAX_CHARS).rstrip("\r\n")


def parse(
    assignments: Sequence[str], *, read_secret: Callable[[str], str] = read_secret_file
) -> Mapping[str, SettingValue | None]:
    """``key=value`` texts; ``key=`` takes the setting back to the router's own default (None).

    A secret's value is not typed on a command line, where every user of the machine can read it: ``read_secret`` gets
    what stands there instead, such as ``@FILE``. Raises InputError (or InputErrors, all that is wrong): no ``=``,
    unknown key, a value that the key does not take.
    """
    changes: dict[str, SettingValue | None] = {}
    problems: list[InputError] = []
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            problems.append(InputError("fleet.no-assignment", text=assignment[:80]))
        elif name not in SETTING_KEYS:
            problems.append(InputError("fleet.unknown-setting", name=name[:80], known=closest(name, SETTING_KEYS)))
        elif name in changes:
            problems.append(InputError("fleet.setting-twice", name=name))
        elif not value:
            changes[name] = None
        elif SETTING_KEYS[name].secret:
            try:
                changes[name] = SETTING_KEYS[name].parse(_secret(name, value, read_secret))
            except InputError as error:
                problems.append(error)
            except ValueError as wanted:
                problems.append(InputError("fleet.bad-secret", name=name, wanted=str(wanted)))
        else:
            try:
                changes[name] = SETTING_KEYS[name].parse(value)
            except ValueError as wanted:
                problems.append(InputError("fleet.bad-setting", name=name, value=value[:80], wanted=str(wanted)))
    if problems:
        raise combined(problems)
    return changes


def _secret(name: str, where: str, read_secret: Callable[[str], str]) -> str:
    try:
        return read_secret(where)
    except UnicodeDecodeError:
        raise InputError("fleet.secret-unreadable", name=name, reason="not UTF-8 text") from None
    except OSError as error:
        raise InputError("fleet.secret-unreadable", name=name, reason=error.strerror or type(error).__name__) from None
    except ValueError:
        raise InputError("fleet.secret-typed", name=name) from None


def wait(
    database: Database,
    caller: Caller,
    *,
    site_id: str,
    version: int,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Settings:
    """The version's row once it is applied or reverted.

    Raises UnavailableError: still pending after ``timeout_s``; it stays stated and the router will take it up.
    """
    ends = clock() + timeout_s
    while True:
        with database.read() as session:
            row = next(row for row in settings.versions(session, caller, site_id) if row.version == version)
        if row.state != State.PENDING.value:
            return row
        if clock() >= ends:
            raise UnavailableError("fleet.settings-pending", site=site_id, version=version, seconds=round(timeout_s))
        sleep(_LOOK_S)
