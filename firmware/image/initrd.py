"""The initial RAM disk: a cpio of a few programs with their libraries, modules, and what stands in images/router/boot.

Written here, byte by byte: sorted, without times, inode numbers counted. Not compressed, or one changed byte would
make all of it new to an update.
"""

import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from firmware.image import kernel_modules, programs, tree
from firmware.image.errors import ImageError
from firmware.image.recipe import lines

#: Not laid over: they say what else goes in.
_LISTS = ("modules", "programs")


@dataclass(frozen=True, slots=True)
class Entry:
    """One member: its mode with the file's kind, and its content; a link's is where it leads."""

    mode: int
    content: bytes = b""


def pack(entries: Mapping[str, Entry]) -> bytes:
    """A cpio in "newc" form (kernel: Documentation/driver-api/early-userspace/buffer-format). Pure."""
    whole = dict(entries)
    for name in entries:
        for parent in PurePosixPath(name).parents:
            if str(parent) != ".":
                whole.setdefault(str(parent), Entry(stat.S_IFDIR | 0o755))
    out = bytearray()
    for number, name in enumerate(sorted(whole), 1):
        _member(out, number, name, whole[name])
    _member(out, 0, "TRAILER!!!", Entry(0))
    return bytes(out) + bytes(-len(out) % 512)


def _member(out: bytearray, number: int, name: str, entry: Entry) -> None:
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    encoded = name.encode() + b"\0"
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(encoded), 0)
    out += b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    out += bytes(-len(out) % 4) + entry.content
    out += bytes(-len(out) % 4)


def build(root: Path, source: Path) -> bytes:
    """The RAM disk for this tree, by the recipe in ``source`` (images/router/boot/initrd). Raises ImageError."""
    entries: dict[str, Entry] = {}
    for name in ("dev", "proc", "sys", "run", "tmp", "root", "etc"):
        entries[name] = Entry(stat.S_IFDIR | 0o755)
    # Merged as Debian is: programs and their loader are found by either name.
    for name in ("bin", "sbin", "lib", "lib64"):
        entries[name] = Entry(stat.S_IFLNK | 0o777, f"usr/{name}".encode())
        entries[f"usr/{name}"] = Entry(stat.S_IFDIR | 0o755)
    for program in lines((source / "programs").read_text()):
        _add_with_libraries(entries, root, program)
    _add_modules(entries, root, lines((source / "modules").read_text()))
    for path in sorted(source.rglob("*")):
        relative = str(path.relative_to(source))
        if path.is_file() and relative not in _LISTS:
            executable = path.stat().st_mode & stat.S_IXUSR or path.read_bytes().startswith(b"#!")
            entries[relative] = Entry(stat.S_IFREG | (0o755 if executable else 0o644), path.read_bytes())
    if "init" not in entries:
        raise ImageError(f"{source} has no init")
    return pack(entries)


def _add_with_libraries(entries: dict[str, Entry], root: Path, program: str) -> None:
    wanted = [program.lstrip("/")]
    while wanted:
        path = _merged(wanted.pop())
        if path in entries:
            continue
        file = root / path
        if not file.exists():
            raise ImageError(f"the initial RAM disk wants /{path}, which is not in the tree")
        if file.is_symlink():
            target = file.readlink()
            entries[path] = Entry(stat.S_IFLNK | 0o777, str(target).encode())
            wanted.append(str(target).lstrip("/") if target.is_absolute() else str(PurePosixPath(path).parent / target))
            continue
        entries[path] = Entry(stat.S_IFREG | 0o755, file.read_bytes())
        wanted += _libraries(root, file)


def _merged(path: str) -> str:
    head, _, _rest = path.partition("/")
    return f"usr/{path}" if head in ("bin", "sbin", "lib", "lib64") else path


def _libraries(root: Path, file: Path) -> Iterable[str]:
    """What the loader needs for a program of the tree: read out of the file, nothing of the tree runs."""
    if file.read_bytes()[:4] != b"\x7fELF":
        return []
    shown = programs.run(["readelf", "-d", "-l", file])
    found = re.findall(r"\(NEEDED\).*\[(.+)\]", shown)
    loader = re.findall(r"program interpreter: (/\S+)\]", shown)
    places = sorted((root / "usr/lib").glob("*-linux-gnu*"))
    paths = [word.lstrip("/") for word in loader]
    for name in found:
        place = next((place / name for place in (*places, root / "usr/lib") if (place / name).exists()), None)
        if place is None:
            raise ImageError(f"{file.name} needs {name}, which is not in the tree")
        paths.append(str(place.relative_to(root)))
    return paths


def _add_modules(entries: dict[str, Entry], root: Path, wanted: Iterable[str]) -> None:
    """The modules as /modules/NAME.ko, and /modules/order: in which order they go in. What is built in is left out."""
    place = root / "usr/lib/modules" / tree.kernel_version(root)
    known = kernel_modules.dependencies((place / "modules.dep").read_text())
    built_in = {kernel_modules.name_of(line) for line in (place / "modules.builtin").read_text().split()}
    names = {kernel_modules.name_of(path) for path in known}
    missing = [name for name in wanted if name.replace("-", "_") not in built_in | names]
    if missing:
        raise ImageError(f"the initial RAM disk wants modules that the tree has not: {', '.join(missing)}")
    order = kernel_modules.load_order(known, wanted)
    for path in order:
        entries[f"modules/{PurePosixPath(path).name}"] = Entry(stat.S_IFREG | 0o644, (place / path).read_bytes())
    listing = "".join(f"{PurePosixPath(path).name}\n" for path in order)
    entries["modules/order"] = Entry(stat.S_IFREG | 0o644, listing.encode())
