"""The content of the targets metadata: releases, modules, and what was taken back. Pure."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import Metadata, TargetFile, Targets

from firmware.errors import RepositoryError
from firmware.fields import TIME_FORMAT
from firmware.release import Module, Release, custom, module_custom, module_path, release_path
from firmware.repository.roles import TARGETS, Terms
from firmware.tuf_client import TARGETS_MAX_BYTES, YANKED

REASON_MAX_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Entry:
    """One release or module. ``name``: the hardware, or the module. ``yanked``: why; None: it was not taken back."""

    path: str
    name: str
    version: str
    counter: int
    yanked: str | None
    yanked_at: str | None


def first_targets(*, terms: Terms, now: datetime) -> Metadata[Targets]:
    """Version 1, empty."""
    return Metadata(Targets(version=1, expires=terms.until(TARGETS, now)))


def next_targets(published: Metadata[Targets], *, terms: Terms, now: datetime) -> Metadata[Targets]:
    """The version after, the same but for its expiry, signed by nobody yet."""
    targets = deepcopy(published.signed)
    targets.version += 1
    targets.expires = terms.until(TARGETS, now)
    return Metadata(targets)


def add_release(targets: Targets, release: Release, document: bytes) -> None:
    """Raises RepositoryError: it is there with another content, its counter is not above all before it."""
    path = release_path(release.hardware, release.version)
    _add(targets, path, release.hardware, release.counter, document, custom(release))


def add_module(targets: Targets, module: Module, document: bytes) -> None:
    """Raises RepositoryError as `add_release` does."""
    path = module_path(module.name, module.version)
    _add(targets, path, module.name, module.counter, document, module_custom(module))


def yank(targets: Targets, path: str, reason: str, *, now: datetime) -> None:
    """Take one out, and say so to whoever runs it. Raises RepositoryError: it is not in there, the reason is too long.

    It stays in the list of what was taken back: its counter is never given out again.
    """
    if path not in targets.targets:
        raise RepositoryError("firmware.not-published", path=path)
    if len(reason) > REASON_MAX_CHARACTERS:
        raise RepositoryError("firmware.reason-long", maximum=REASON_MAX_CHARACTERS)
    taken = targets.targets.pop(path)
    entry = {"reason": reason, "at": now.strftime(TIME_FORMAT), "counter": taken.custom["counter"]}
    targets.unrecognized_fields.setdefault(YANKED, {})[path] = entry


def listed(targets: Targets) -> tuple[Entry, ...]:
    """What is in there, in order of counters; what was taken back as well."""
    found = [_entry(path, file.custom["counter"], None, None) for path, file in targets.targets.items()]
    taken: Mapping[str, dict[str, object]] = targets.unrecognized_fields.get(YANKED, {})
    found += [
        _entry(path, int(str(said["counter"])), str(said["reason"]), str(said["at"])) for path, said in taken.items()
    ]
    return tuple(sorted(found, key=lambda entry: (entry.path.split("/")[:2], entry.counter)))


def check_size(targets: Metadata[Targets]) -> None:
    """Raises RepositoryError: larger than a device accepts."""
    size = len(targets.to_bytes())
    if size > TARGETS_MAX_BYTES:
        raise RepositoryError("firmware.targets-large", size=size, maximum=TARGETS_MAX_BYTES)


def _add(targets: Targets, path: str, name: str, counter: int, document: bytes, said: Mapping[str, object]) -> None:
    file = TargetFile.from_data(path, document, ["sha256"])
    file.unrecognized_fields["custom"] = dict(said)
    there = targets.targets.get(path)
    if there is not None and there.hashes == file.hashes:
        return  # asked for again, after a crash
    taken = {entry.path: entry for entry in listed(targets) if entry.path.split("/")[:2] == path.split("/")[:2]}
    if path in taken:
        raise RepositoryError("firmware.version-taken", path=path)
    highest = max((entry.counter for entry in taken.values()), default=0)
    if counter <= highest:
        raise RepositoryError("firmware.counter-taken", path=path, name=name, counter=counter, highest=highest)
    targets.targets[path] = file


def _entry(path: str, counter: int, yanked: str | None, at: str | None) -> Entry:
    _, name, file = path.split("/")
    return Entry(path, name, file.removesuffix(".json"), counter, yanked, at)
