"""Where prepared things lie. They are made once and shared by every checkout on the machine."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware.image.errors import ImageError

#: Packages, base trees, built images. Remove it to begin anew.
CACHE = Path("/var/cache/kyoten-lab/image")
ROOT = Path(__file__).parents[2]
ROUTER = ROOT / "images" / "router"
RECIPE = ROUTER / "recipe.toml"


@contextmanager
def locked() -> Iterator[Path]:
    """Hold the cache alone: two builds at once prepare a thing once. Raises ImageError without root."""
    if os.geteuid() != 0:
        raise ImageError("root is needed to make a root tree with its owners: run this as root")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield CACHE


def digest(parts: Iterable[str | bytes | Path]) -> str:
    """A name for what is made of these: texts, and files and directories by their content."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            for path in sorted(part.rglob("*")) if part.is_dir() else [part]:
                if path.is_file() and "__pycache__" not in path.parts:
                    shown = f"{path.relative_to(part)} {path.stat().st_mode:o}\0"
                    whole.update(shown.encode() + hashlib.sha256(path.read_bytes()).digest())
        else:
            whole.update((part.encode() if isinstance(part, str) else part) + b"\0")
    return whole.hexdigest()[:16]


def empty(directory: Path) -> Path:
    """The directory, empty."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def sha256(path: Path) -> str:
    """Of a file's content, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
