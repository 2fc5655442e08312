"""What a device believes of releases and modules: TUF metadata in, typed and vouched-for documents out.

Whoever serves the files is believed in nothing. Refused are old metadata, mixtures, endless answers, what lacks
signatures, other hardware, lower counters without a permit. How time is judged: docs/adr/0020-firmware-trust.md.
This module decides nothing about when to update; it does not fetch payload.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeGuard

from firmware import durable, tuf_client
from firmware.errors import TrustError
from firmware.fields import DOCUMENT_MAX_BYTES, NUMBER_MAX
from firmware.listing import Listed
from firmware.permit import Permit, verified
from firmware.release import (
    Module,
    Release,
    agree,
    custom,
    module_custom,
    module_path,
    parse,
    parse_module,
    release_path,
)
from firmware.trusted_directory import TrustedDirectory
from firmware.tuf_client import Limits, Source, Target, View

__all__ = ["Device", "Listed", "Refreshed", "Source", "Trust"]

#: For one refresh or document over a bad line: some 40 kB at 1 kB/s, many times over.
LIMIT_S = 900.0

_NAME = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PATH = re.compile(rf"(releases|modules)/({_NAME})/([0-9][0-9A-Za-z.-]{{0,31}})\.json\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Device:
    """What releases are held against: the kind of hardware, and the counter of the release that was last committed."""

    hardware: str
    counter: int


@dataclass(frozen=True, slots=True)
class Refreshed:
    """After a refresh: the versions that count now; ``at``: the instant that expiry was held against.

    ``clock_behind_s`` above 0: the device's clock is wrong for certain, by at least so much, and what was believed is
    as old as the last that was believed before. ``changed``: something was written.
    """

    root: int
    timestamp: int
    snapshot: int
    targets: int
    at: datetime
    clock_behind_s: float
    changed: bool


class Trust:
    """One device's. One process at a time may use the directory."""

    def __init__(
        self,
        directory: Path,
        *,
        root: bytes,
        source: Source,
        device: Device,
        built_at: datetime,
        limit_s: float = LIMIT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``root``: the root metadata that came with the image; ``built_at``: when the image was built."""
        self._directory = TrustedDirectory(directory)
        self._root, self._source, self._device, self._built_at = root, source, device, built_at
        self._limits = Limits(limit_s, monotonic)
        self._view: View | None = None
        self._at = built_at

    def refresh(self, now: datetime) -> Refreshed:
        """Bring the metadata up to date. ``now``: the best that the device knows (`firmware.clock.judged`).

        What was believed on the way is kept even if a later step fails: a root that takes a stolen key away must not
        be forgotten because the line dropped. Raises TrustError; SourceError: the transport; ``firmware.trust-disk``.
        """
        try:
            durable.make_directory(self._directory.top, mode=0o700)
            with durable.only_one(self._directory.top / ".lock"):
                return self._refresh(now)
        except BlockingIOError:
            raise TrustError("firmware.busy", path=str(self._directory.top)) from None
        except OSError as error:
            raise TrustError("firmware.trust-disk", path=str(self._directory.top), reason=str(error.strerror)) from None

    def floor(self) -> datetime:
        """An instant that has certainly passed."""
        return tuf_client.floor(self._directory.current(), self._root, self._built_at)

    def listing(self) -> tuple[Listed, ...]:
        """What is published and has a name that we know how to read. After a refresh."""
        return tuple(listed for target in self._seen().targets.values() if (listed := _listed(target)))

    def release(self, path: str, *, permit: Permit | None = None) -> Release:
        """The release at ``path``, vouched for, for this device. ``permit``: to go below the device's counter.

        Raises TrustError; ReleaseError: what was signed is no release document; SourceError. After a refresh.
        """
        match = _matched(path, "releases")
        target = self._target(path)
        if match[2] != self._device.hardware:
            raise TrustError("firmware.wrong-hardware", path=path, hardware=self._device.hardware)
        listed = _listed(target)
        if listed is None:
            raise TrustError("firmware.document-disagrees", path=path)
        self._not_lower(path, listed.counter, permit)
        release = parse(self._document(target))
        if release_path(release.hardware, release.version) != path or not agree(target.custom, custom(release)):
            raise TrustError("firmware.document-disagrees", path=path)
        return release

    def module(self, path: str) -> Module:
        """The module at ``path``, vouched for. Raises as `release` does. After a refresh."""
        _matched(path, "modules")
        target = self._target(path)
        module = parse_module(self._document(target))
        if module_path(module.name, module.version) != path or not agree(target.custom, module_custom(module)):
            raise TrustError("firmware.document-disagrees", path=path)
        return module

    def yanked(self, path: str) -> str | None:
        """Why a release or module was taken back; None: it was not. After a refresh."""
        return _yanked(self._seen(), path)

    def permit(self, text: str, *, site: str) -> Permit:
        """A downgrade permit for this device, by the targets keys of the root that counts now.

        Raises TrustError; ReleaseError: it cannot be read. After a refresh.
        """
        return verified(text.encode("utf-8", "replace"), self._seen().root, site=site, device=self._device, at=self._at)

    def _refresh(self, now: datetime) -> Refreshed:
        # A stolen timestamp key may have dated metadata into the future, so that everything later seems expired. The
        # root that takes the key away ends that: then the floor is another one, and it is tried once more.
        first = self.floor()
        known = tuf_client.root_version(self._directory.current())
        try:
            return self._refresh_at(now, first)
        except TrustError as error:
            newer = tuf_client.root_version(self._directory.current())
            if error.key != "firmware.metadata-expired" or newer == known or self.floor() == first:
                raise
        return self._refresh_at(now, self.floor())

    def _refresh_at(self, now: datetime, floor: datetime) -> Refreshed:
        at = max(now, floor)
        copy = self._directory.begin()
        try:
            view = tuf_client.refresh(copy, self._root, self._source, at=at, limits=self._limits)
        finally:
            # In every case: only what was believed is in there. Without a root (the image's is damaged) nothing is.
            changed = (copy / "root.json").exists() and self._directory.commit(copy)
        self._view, self._at = view, at
        return Refreshed(
            root=view.root.version,
            timestamp=view.timestamp_version,
            snapshot=view.snapshot_version,
            targets=view.targets_version,
            at=at,
            clock_behind_s=max(0.0, (floor - now).total_seconds()),
            changed=changed,
        )

    def _seen(self) -> View:
        if self._view is None:
            raise RuntimeError("refresh comes first")
        return self._view

    def _target(self, path: str) -> Target:
        reason = self.yanked(path)
        if reason is not None:
            raise TrustError("firmware.yanked", path=path, reason=reason)
        target = self._seen().targets.get(path)
        if target is None:
            raise TrustError("firmware.not-published", path=path)
        return target

    def _document(self, target: Target) -> bytes:
        return tuf_client.fetch_target(target, self._source, maximum=DOCUMENT_MAX_BYTES, limits=self._limits)

    def _not_lower(self, path: str, counter: int, permit: Permit | None) -> None:
        if counter >= self._device.counter:
            return
        if permit is None or (permit.from_counter, permit.to_counter) != (self._device.counter, counter):
            raise TrustError("firmware.counter-rollback", path=path, counter=counter, installed=self._device.counter)


def _matched(path: str, wanted: str) -> re.Match[str]:
    match = _PATH.match(path)
    if match is None or match[1] != wanted:
        raise TrustError("firmware.bad-path", path=ascii(path[:120])[1:-1])
    return match


def _listed(target: Target) -> Listed | None:
    """None: nothing of ours, or of a later agent than we are."""
    match, said = _PATH.match(target.path), target.custom
    if match is None or not isinstance(said, dict):
        return None
    counter = said.get("counter")
    minimum, kind = said.get("minimum_from", 0), said.get("kind", "")
    if not (_is_number(counter) and _is_number(minimum) and isinstance(kind, str)):
        return None
    return Listed(target.path, match[1], match[2], match[3], counter, minimum, kind[:63])


def _is_number(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= NUMBER_MAX


def _yanked(view: View, path: str) -> str | None:
    if not isinstance(view.yanked, dict) or path not in view.yanked:
        return None
    entry = view.yanked[path]
    reason = entry.get("reason") if isinstance(entry, dict) else None
    return reason[:400] if isinstance(reason, str) else ""
