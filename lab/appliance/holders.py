"""The lab's holders of root and targets keys, two of three each, and what they publish into a world's repository.

Keys are made once for each machine and lie in the cache of images, so that images and releases outlive the worlds that
they are tried in. They are open in a file: what they sign is believed by images of this machine only.
"""

import shutil
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Key

from cloudside.config import Config
from cloudside.fleet.releases import OnlineKeys, register, terms
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database, Doorbell
from firmware.compose import MODULE_DOCUMENT, RELEASE_DOCUMENT
from firmware.image import places
from firmware.release import parse, parse_module
from firmware.repository import keys, roles, staging
from firmware.repository import publish as repository
from firmware.repository.roles import ROOT, TARGETS, Terms
from firmware.repository.storage import Storage

_HOLDERS = {ROOT: ("hanako", "taro", "jiro"), TARGETS: ("saburo", "shiro", "goro")}
_THRESHOLD = 2
#: Of each role two sign: no more than is needed.
_SIGN = ("hanako", "jiro", "saburo", "goro")
#: A root that has less than this left is made anew, with all keys.
_LEFT = timedelta(days=60)


def trust_root() -> Path:
    """The root of the lab's repository, for the image. Raises ImageError without root's rights."""
    return _ceremony() / "root.json"


def publish(config: Config, *directories: Path) -> None:
    """Let routers find these releases and modules, as `kyoten firmware stage`, `sign` and `publish` would.

    What was staged before (`kyoten firmware yank`) is signed and published with them; the registry knows, too. In a
    world where nothing was published yet the repository is begun: its root is the one that images have. Raises
    FirmwareError, KyotenError, ImageError.
    """
    place, now = _ceremony(), datetime.now(UTC)
    storage, online = Storage(config.firmware_directory), OnlineKeys(config.firmware_keys)
    if storage.root() is None:
        shutil.copytree(place / "repository" / "metadata", storage.metadata)
        shutil.copytree(place / "online", config.firmware_keys)
    for directory in directories:
        if (module := directory / MODULE_DOCUMENT).exists():
            document = module.read_bytes()
            staging.stage_module(storage, parse_module(document), document, directory, terms=terms(config), now=now)
            continue
        document = (directory / RELEASE_DOCUMENT).read_bytes()
        staging.stage_release(storage, parse(document), document, directory, terms=terms(config), now=now)
    if storage.staged_targets() is not None:
        _sign(place, storage, _HOLDERS[TARGETS])
        repository.publish(storage, online, terms=terms(config), now=now)
    with closing(Database(config.registry_url)) as database:
        with database.write() as session:
            register(session, OPERATOR, storage, now)
        for process in ("web", "worker"):
            Doorbell(config.runtime_directory, process, database).ring()


def _ceremony() -> Path:
    """Where keys, root and an empty repository are; made if they are not there or their time is nearly over."""
    with places.locked() as cache:
        place, now = cache / "lab-holders", datetime.now(UTC)
        if (place / "root.json").exists():
            root = Storage(place / "repository").published_root().signed
            if root.expires - now > _LEFT:
                return place
        fresh = places.empty(cache / "lab-holders.new")
        storage, online = Storage(fresh / "repository"), OnlineKeys(fresh / "online")
        holders = {role: [_made(fresh, name) for name in names] for role, names in _HOLDERS.items()}
        thresholds = dict.fromkeys(roles.OFFLINE, _THRESHOLD)
        staging.begin(storage, holders, thresholds, online.make, terms=Terms(), now=now)
        _sign(fresh, storage, (*_HOLDERS[ROOT], *_HOLDERS[TARGETS]))
        repository.publish(storage, online, terms=Terms(), now=now)
        (fresh / "root.json").write_bytes(storage.root_bytes(1))
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
        return place


def _made(place: Path, name: str) -> Key:
    key = keys.make("ed25519")
    keys.write(_key(place, name), key, None)
    return keys.public(key, name)


def _sign(place: Path, storage: Storage, names: Sequence[str]) -> None:
    for name in names:
        if name in _SIGN:
            staging.sign(storage.staged_directory, keys.signer(keys.read(_key(place, name), None)))


def _key(place: Path, name: str) -> Path:
    return place / "keys" / f"{name}.key"
