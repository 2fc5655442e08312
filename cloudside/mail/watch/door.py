"""What the listeners refuse, as incidents: guessed passwords, unknown addresses, logins in wrong places, old TLS."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloudside.mail.intake.directory import Directory
from cloudside.mail.message import one_line
from cloudside.mail.watch import facts, remedies
from cloudside.mail.watch.ledger import DAILY_S, HOURLY_S, Facts, Ledger, Params
from cloudside.mail.watch.sightings import Seen, Sight, Sightings

LOGINS, UNKNOWN, ABROAD, OLD_TLS = (
    "mail-login-failures",
    "mail-unknown-source",
    "mail-credential-abroad",
    "mail-old-tls",
)
#: Failed logins within an hour from one address, or for one user name; mails tried from an address of nobody.
FAILURES_MIN, UNKNOWN_MIN = 10, 3
#: More incidents of one kind are not opened at once: an attacker has many addresses.
SUBJECTS_MAX = 10


@dataclass(slots=True)
class Door:
    """The step of the watch that looks at what was refused."""

    sightings: Sightings
    directory: Directory
    ledger: Ledger

    async def run(self, now: datetime) -> None:
        """One look. Raises KyotenError."""
        at = now.timestamp()
        await self._settle(LOGINS, self._logins(at), now)
        await self._settle(UNKNOWN, self._unknown(at), now)
        await self._settle(ABROAD, self._abroad(at), now)
        snapshot = self.directory.snapshot
        old: dict[str, Facts] = {
            name: _facts({"commands": remedies.of_look(name)})
            for name, origin in snapshot.origins.items()
            if origin.old_tls and not origin.revoked
        }
        # It is a state that somebody wanted: told once.
        await self.ledger.settle(OLD_TLS, old, now, remind_s=float("inf"))

    async def _settle(self, kind: str, found: dict[str, tuple[int, Params]], now: datetime) -> None:
        standing = self.ledger.standing(kind)
        # What stands first: it is not to end because others are louder.
        chosen = sorted(found, key=lambda subject: (subject not in standing, -found[subject][0], subject))[
            :SUBJECTS_MAX
        ]
        wanted = {subject: _facts(found[subject][1]) for subject in chosen}
        await self.ledger.settle(kind, wanted, now, remind_s=DAILY_S if kind == UNKNOWN else HOURLY_S)

    def _logins(self, at: float) -> dict[str, tuple[int, Params]]:
        by_source: dict[str, list[Seen]] = defaultdict(list)
        by_user: dict[str, list[Seen]] = defaultdict(list)
        for seen in self.sightings.recent(Sight.LOGIN_FAILED, at):
            by_source[seen.source].append(seen)
            if seen.subject:
                by_user[seen.subject].append(seen)
        found: dict[str, tuple[int, Params]] = {}
        for source, group in by_source.items():
            if (count := _count(group)) >= FAILURES_MIN:
                found[one_line(source, 60)] = (count, self._login_params(group, count))
        for user, group in by_user.items():
            # From several addresses, or it is told as that of the address.
            if len(group) > 1 and (count := _count(group)) >= FAILURES_MIN:
                found[one_line(user, 64)] = (count, self._login_params(group, count))
        return found

    def _login_params(self, group: Sequence[Seen], count: int) -> dict[str, Any]:
        users = sorted({seen.subject for seen in group if seen.subject})
        known = [user for user in users if user in self.directory.snapshot.credentials]
        origin = self.directory.snapshot.credentials[known[0]].site_id if known else ""
        return {
            "count": count,
            "since": facts.shown_time(min(seen.first for seen in group)),
            "names": ", ".join(one_line(user, 64) for user in users[:5]) or "-",
            "sources": facts.named((seen.source, seen.count) for seen in group),
            "commands": remedies.of_user(known[0] if known else "", origin),
        }

    def _unknown(self, at: float) -> dict[str, tuple[int, Params]]:
        found: dict[str, tuple[int, Params]] = {}
        for seen in self.sightings.recent(Sight.UNKNOWN_SOURCE, at):
            if seen.count >= UNKNOWN_MIN:
                params = {
                    "count": seen.count,
                    "since": facts.shown_time(seen.first),
                    "commands": [("alerts.do-sites", "kyoten site list")],
                }
                found[one_line(seen.source, 60)] = (seen.count, params)
        return found

    def _abroad(self, at: float) -> dict[str, tuple[int, Params]]:
        by_user: dict[str, list[Seen]] = defaultdict(list)
        for seen in self.sightings.recent(Sight.FOREIGN_SOURCE, at):
            by_user[seen.subject].append(seen)
        found: dict[str, tuple[int, Params]] = {}
        for user, group in by_user.items():
            credential = self.directory.snapshot.credentials.get(user)
            origin = credential.site_id if credential is not None else group[-1].detail
            count = _count(group)
            params = {
                "user": one_line(user, 64),
                "count": count,
                "since": facts.shown_time(min(seen.first for seen in group)),
                "sources": facts.named((seen.source, seen.count) for seen in group),
                "commands": remedies.of_user(user, origin),
            }
            found[f"{one_line(origin, 63) or 'nobody'}/{one_line(user, 64)}"] = (count, params)
        return found


def _count(group: Sequence[Seen]) -> int:
    return sum(seen.count for seen in group)


def _facts(params: Params) -> Facts:
    async def known() -> Params:
        return params

    return known
