"""Why a site's tunnel did not come up or went away, read from what charon writes to its log. Pure.

vici has no events for attempts that fail, and its log events can deadlock charon 5.9.8, so the log is what there is.
charon's lines carry the IKE_SA's number (``ike_name = yes``): `Reader` follows each attempt by it. What the first
complaint of an attempt is about is its cause: after it charon tries every other certificate it remembers for that
identity and complains of those too. A complaint counts when the attempt fails, because one that succeeds may have
been through complaints as well.

A cause is a message key, ``causes.<what>``, with parameters. The identity in it is what a peer *claimed*.
Lines: charon 5.9.8, src/libcharon/sa/ikev2/tasks, src/libstrongswan/credentials, plugins/addrblock.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

#: Attempts followed at once: a flood pushes out the oldest, and a site's own takes seconds. And tunnels that are up.
MOST_ATTEMPTS = 5000
MOST_ESTABLISHED = 50_000
#: A tunnel that its router ends within this many seconds of its setting up was not wanted: it refused the gateway.
REFUSED_WITHIN_S = 3.0
#: Characters of a peer's words that are kept.
_SHOWN = 120

_LINE = re.compile(r"(\S+) \d\d\[(?:IKE|CFG|ENC|JOB|DMN)\] (?:<(?:[^|>]*\|)?(\d+)> )?(.*)")

#: What a line complains of: pattern, key, and the parameters that its groups are.
_COMPLAINTS: tuple[tuple[re.Pattern[str], str, tuple[str, ...]], ...] = tuple(
    (re.compile(pattern), f"causes.{key}", names)
    for pattern, key, names in (
        (r"certificate was revoked on (.+?), reason", "certificate-revoked", ("since",)),
        (r"no issuer certificate found for \"(.+)\"", "unknown-authority", ("subject",)),
        (r"subject address block (.+) is not contained in any issuer", "foreign-block", ("block",)),
        (r"subject certificate lacks ipAddrBlocks", "no-block", ()),
        (r"received proposals: (IKE:.+)", "ike-proposal", ("offered",)),
        (r"received proposals: (ESP:.+)", "esp-proposal", ("offered",)),
        (r"no IKE config found for ", "ike-version", ()),
        (r"no matching peer config found", "wrong-gateway", ()),
        (r"TS (\S+) is not contained in any address block constraint", "traffic-selectors", ("asked",)),
        (r"traffic selectors .*=== (.+?) ?unacceptable", "traffic-selectors", ("asked",)),
        (r"no trusted .*key found for|signature validation failed", "authentication", ()),
    )
)
_INVALID = re.compile(r"subject certificate invalid \(valid from (.+) to (.+)\)")
_INITIATING = re.compile(r"(\S+) is initiating an? ")
_CLAIMED = re.compile(r"looking for peer configs matching \S*\[(.*)\]\.\.\.(\S+?)\[(.*)\]$")
_ESTABLISHED = re.compile(r"IKE_SA \S+ (?:established|rekeyed) between .*\.\.\.(\S+?)\[(.*)\]$")
_NO_CONFIG = re.compile(r"no IKE config found for \S+?\.\.\.([0-9a-fA-F.:]+),")
#: The notifies of an answer that ends an attempt (RFC 7296 section 3.10.1), as charon writes them.
_FAILED = re.compile(r"generating \S+ response \d+ \[.*N\((?:AUTH_FAILED|NO_PROP|TS_UNACCEPT)\)")
_HALF_OPEN = re.compile(r"deleting half open IKE_SA with (\S+) after timeout")
_DUPLICATE = re.compile(r"deleting duplicate IKE_SA for peer '(.*)'")

#: A line without one of these is not looked at: under a flood most are not.
_WORTH = (
    "is initiating", "looking for peer", "ed between", "was revoked", "issuer certificate", "certificate lacks",
    "certificate invalid", "signature validation", "received proposals", "address block", "no IKE config",
    "no matching peer", "unacceptable", "key found for", "N(AUTH_FAILED)", "N(NO_PROP)", "N(TS_UNACCEPT)", "half open",
    "duplicate", "giving up after", "received DELETE for IKE_SA", "spawning",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cause:
    """What happened to one attempt or one tunnel. ``site``: the identity as claimed, "" when none was named.

    ``ended``: it is about a tunnel that was up, else about one that did not come up.
    """

    site: str
    peer: str
    key: str
    params: Mapping[str, str]
    at: datetime
    ended: bool = False


@dataclass(frozen=True, slots=True)
class _Attempt:
    peer: str = ""
    site: str = ""
    asked: str = ""
    complaint: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    established_at: datetime | None = None


class Reader:
    """Follows attempts from line to line. One for the log of one gateway."""

    def __init__(self) -> None:
        self._attempts: dict[str, _Attempt] = {}
        self._established: dict[str, _Attempt] = {}
        #: When charon started, if the lines said so.
        self.started_at: datetime | None = None

    def read(self, lines: Iterable[str]) -> Iterator[Cause]:
        """What the lines say, in their order. Any line is taken; what is not understood says nothing."""
        for line in lines:
            if not any(word in line for word in _WORTH):
                continue
            found = _LINE.match(line)
            at = _time(found[1]) if found else None
            if found is None or at is None:
                continue
            if found[2] is None:
                if found[3].startswith("spawning"):
                    self.started_at = at
                    self._attempts.clear()
                    self._established.clear()
                continue
            cause = self._follow(found[2], found[3], at)
            if cause is not None:
                yield cause

    def _follow(self, number: str, words: str, at: datetime) -> Cause | None:
        attempt = self._attempts.get(number) or self._established.get(number) or _Attempt()
        if found := _INITIATING.match(words):
            self._keep(number, replace(_Attempt(), peer=found[1]))
            return None
        if found := _CLAIMED.match(words):
            self._keep(number, replace(attempt, peer=found[2], site=_identity(found[3]), asked=found[1]))
            return None
        if found := _ESTABLISHED.match(words):
            known = replace(attempt, peer=found[1], site=_identity(found[2]), complaint="", established_at=at)
            self._keep(number, known)
            return None
        if complaint := _complaint(words, attempt, at):
            if not attempt.complaint:
                attempt = replace(attempt, complaint=complaint[0], params=complaint[1])
                self._keep(number, attempt)
            if complaint[0] != "causes.ike-version":
                return None
            peer = _NO_CONFIG.match(words)
            return self._end(number, replace(attempt, peer=peer[1] if peer else ""), at)
        if _FAILED.match(words):
            return self._end(number, attempt, at)
        if found := _HALF_OPEN.match(words):
            if attempt.complaint:
                return self._end(number, attempt, at)
            return self._end(number, replace(attempt, peer=found[1], complaint="causes.half-open"), at)
        return self._follow_ending(number, words, attempt, at)

    def _follow_ending(self, number: str, words: str, attempt: _Attempt, at: datetime) -> Cause | None:
        if words.startswith("giving up after"):
            return self._end(number, replace(attempt, complaint="causes.dead-peer"), at, ended=True)
        if found := _DUPLICATE.match(words):
            return _cause(replace(attempt, site=_identity(found[1]), complaint="causes.replaced"), at, ended=True)
        if words.startswith("received DELETE for IKE_SA") and attempt.established_at is not None:
            soon = (at - attempt.established_at).total_seconds() <= REFUSED_WITHIN_S
            key = "causes.router-refused" if soon else "causes.router-ended"
            return self._end(number, replace(attempt, complaint=key, params={}), at, ended=True)
        return None

    def _keep(self, number: str, attempt: _Attempt) -> None:
        self._forget(number)
        up = attempt.established_at is not None
        kept, most = (self._established, MOST_ESTABLISHED) if up else (self._attempts, MOST_ATTEMPTS)
        kept[number] = attempt
        if len(kept) > most:
            del kept[next(iter(kept))]

    def _forget(self, number: str) -> None:
        self._attempts.pop(number, None)
        self._established.pop(number, None)

    def _end(self, number: str, attempt: _Attempt, at: datetime, *, ended: bool = False) -> Cause | None:
        self._forget(number)
        return _cause(attempt, at, ended=ended) if attempt.complaint else None


def _complaint(words: str, attempt: _Attempt, at: datetime) -> tuple[str, dict[str, str]] | None:
    if found := _INVALID.search(words):
        begins, ends = _log_time(found[1]), _log_time(found[2])
        if begins is not None and at < begins:
            return "causes.certificate-not-yet-valid", {"begins": f"{begins:%Y-%m-%d %H:%M}"}
        shown = f"{ends:%Y-%m-%d %H:%M}" if ends is not None else found[2][:_SHOWN]
        return "causes.certificate-expired", {"since": shown}
    for pattern, key, names in _COMPLAINTS:
        if found := pattern.search(words):
            params = dict(zip(names, (value[:_SHOWN] for value in found.groups()), strict=True))
            if key == "causes.wrong-gateway":
                params["asked"] = attempt.asked[:_SHOWN]
            return key, params
    return None


def _cause(attempt: _Attempt, at: datetime, *, ended: bool) -> Cause:
    params = {**attempt.params, "peer": attempt.peer}
    return Cause(attempt.site, attempt.peer, attempt.complaint, params, at, ended)


def _identity(shown: str) -> str:
    """The site's name in an IKE identity; a distinguished name's common name."""
    return shown.removeprefix("CN=")[:_SHOWN]


def _time(shown: str) -> datetime | None:
    """charon's ``time_format``, local time without a zone."""
    try:
        return datetime.fromisoformat(shown).astimezone(UTC)
    except ValueError:
        return None


def _log_time(shown: str) -> datetime | None:
    """A time inside a line (``%T`` of charon's printf): ``Oct 18 02:08:01 2025``, local time."""
    words = shown.split()
    if len(words) == 5:  # with the zone: "... UTC 2026"
        words = [*words[:3], words[4]]
    try:
        return datetime.strptime(" ".join(words), "%b %d %H:%M:%S %Y").astimezone(UTC)
    except ValueError:
        return None
