"""The initial RAM disk: a cpio of a few programs with their libraries, modules, and what stands in images/router/boot.

Written here, byte by byte: sorted, without times, inode numbers counted. GRUB reads it twice, at a few MB a second from
a slow disk, so it is compressed; but in parts, or one changed byte would make all of it new to an update: modules,
which change with the kernel; programs, with their packages; and what is ours, as it is.
"""

import re
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from firmware.image import kernel_modules, programs, tree
from firmware.image.errors import ImageError
from firmware.image.recipe import lines

#: Not laid over: they say what else goes in.
_LISTS = ("modules", "programs")

#: As far as the kernel's own unpacking goes without trouble, and as small as it gets.
_LEVEL = 19
#: A part begins at a multiple of this (the kernel wants four).
_ALIGNMENT_BYTES = 512


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


def build(root: Path, source: Path, architecture: str) -> bytes:
    """The RAM disk for this tree, by the recipe in ``source`` (images/router/boot/initrd). Raises ImageError."""
    own = _own(source)
    modules = _modules(root, sections((source / "modules").read_text(), architecture))
    parts = [pack(own), _compressed(pack(modules)), _compressed(pack(_programs(root, source)))]
    return b"".join(part + bytes(-len(part) % _ALIGNMENT_BYTES) for part in parts)


def _own(source: Path) -> dict[str, Entry]:
    """Directories, and what is ours: first, since later parts lie in these directories."""
    entries: dict[str, Entry] = {}
    for name in ("dev", "proc", "sys", "run", "tmp", "root", "etc"):
        entries[name] = Entry(stat.S_IFDIR | 0o755)
    # Merged as Debian is: programs and their loader are found by either name.
    for name in ("bin", "sbin", "lib", "lib64"):
        entries[name] = Entry(stat.S_IFLNK | 0o777, f"usr/{name}".encode())
        entries[f"usr/{name}"] = Entry(stat.S_IFDIR | 0o755)
    for path in sorted(source.rglob("*")):
        relative = str(path.relative_to(source))
        if path.is_file() and relative not in _LISTS:
            executable = path.stat().st_mode & stat.S_IXUSR or path.read_bytes().startswith(b"#!")
            entries[relative] = Entry(stat.S_IFREG | (0o755 if executable else 0o644), path.read_bytes())
    if "init" not in entries:
        raise ImageError(f"{source} has no init")
    return entries


def _programs(root: Path, source: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for line in lines((source / "programs").read_text()):
        program, arrow, target = line.partition(" -> ")
        if arrow:
            entries[program.lstrip("/")] = Entry(stat.S_IFLNK | 0o777, target.encode())
        else:
            _add_with_libraries(entries, root, program)
    return entries


def _compressed(part: bytes) -> bytes:
    """In one thread: the same bytes on any machine with the same zstd."""
    with tempfile.TemporaryDirectory(prefix="kyoten-initrd-") as name:
        plain = Path(name) / "part"
        plain.write_bytes(part)
        programs.run(["zstd", "-q", f"-{_LEVEL}", "--single-thread", plain])
        return plain.with_suffix(".zst").read_bytes()


def sections(text: str, architecture: str) -> dict[str, tuple[str, ...]]:
    """A list file with headings in square brackets; ``[NAME ARCHITECTURE]`` goes on with NAME on such machines only.

    Pure. Raises ImageError: something stands before the first.
    """
    found: dict[str, list[str]] = {}
    section: list[str] | None = None
    for line in lines(text):
        if line.startswith("["):
            name, _, only = line.strip("[]").partition(" ")
            here = found.setdefault(name, [])
            section = here if only in ("", architecture) else []
        elif section is None:
            raise ImageError(f"{line!r} stands under no heading")
        else:
            section.append(line)
    return {name: tuple(words) for name, words in found.items()}


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


def _modules(root: Path, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, Entry]:
    """The modules, flat, with a modules.dep for them; and /modules/SECTION: the names of each section.

    What is built in is left out.
    """
    version = tree.kernel_version(root)
    place = root / "usr/lib/modules" / version
    known = kernel_modules.dependencies((place / "modules.dep").read_text())
    built_in = {kernel_modules.name_of(line) for line in (place / "modules.builtin").read_text().split()}
    paths = {kernel_modules.name_of(path): path for path in known}
    every = [name for names in wanted.values() for name in names]
    missing = [name for name in every if name.replace("-", "_") not in built_in | paths.keys()]
    if missing:
        raise ImageError(f"the initial RAM disk wants modules that the tree has not: {', '.join(missing)}")
    entries: dict[str, Entry] = {}
    dependencies = []
    for path in kernel_modules.load_order(known, every):
        name = PurePosixPath(path).name
        entries[f"usr/lib/modules/{version}/{name}"] = Entry(stat.S_IFREG | 0o644, (place / path).read_bytes())
        dependencies.append(f"{name}: {' '.join(PurePosixPath(one).name for one in known[path])}".rstrip() + "\n")
    entries[f"usr/lib/modules/{version}/modules.dep"] = Entry(stat.S_IFREG | 0o644, "".join(dependencies).encode())
    for section, names in wanted.items():
        loaded = (kernel_modules.name_of(name) for name in names if name.replace("-", "_") in paths)
        entries[f"modules/{section}"] = Entry(stat.S_IFREG | 0o644, "".join(f"{name}\n" for name in loaded).encode())
    return entries
