"""The root tree: Debian's packages, then our files; what the router does not need is gone. The same every time.

`base` is what Debian gives, trimmed; it is kept in the cache by what it is made of. `finish` makes a router of a copy.
"""

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from firmware.image import debian, kernel_modules, places, programs
from firmware.image.errors import ImageError
from firmware.image.recipe import Recipe, lines

#: dpkg leaves these out while it unpacks: less to write, less to remove.
_EXCLUDED = (
    "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
)  # fmt: skip

#: Directories that the running system mounts something on, and that packages do not bring.
_MOUNT_POINTS = ("config", "boot/efi", "run", "tmp", "dev", "proc", "sys", "var", "root")


def sources() -> str:
    """This machine's own apt sources, as sources.list(5) has them. Raises ImageError: there are none."""
    form = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    shown = programs.run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    found = sorted(set(shown.splitlines()))
    if not found:
        raise ImageError("apt knows no package lists: run `apt-get update`, or check the machine's apt sources")
    return "".join(f"{line}\n" for line in found)


def base(recipe: Recipe, cache: Path, *, epoch: int, fresh: bool = False) -> Path:
    """The trimmed tree of Debian's packages, out of the cache or made now. ``fresh``: with today's versions.

    Unpacking takes a minute and trimming a second: each is kept by itself. The cache is locked by the caller. Raises
    ImageError.
    """
    unpacked = [recipe.suite, recipe.architecture, repr(sorted(recipe.packages)), repr(_EXCLUDED), str(epoch)]
    whole = cache / f"debian-{places.digest(unpacked)}"
    if fresh or not (whole / "complete").exists():
        # Beside the one that is there: a build that breaks off costs nobody what they had.
        fresh_one = places.empty(whole.with_suffix(".new"))
        _bootstrap(recipe, fresh_one / "root", cache, epoch)
        (fresh_one / "complete").write_text("\n".join(unpacked))
        shutil.rmtree(whole, ignore_errors=True)
        fresh_one.rename(whole)
    code = [Path(__file__), Path(debian.__file__), Path(kernel_modules.__file__)]
    trimmed = (
        cache / f"base-{places.digest([*unpacked, repr(recipe), *code, str((whole / 'complete').stat().st_mtime_ns)])}"
    )
    if not (trimmed / "complete").exists():
        _forget_old(cache)
        places.empty(trimmed)
        copy(whole / "root", trimmed / "root")
        _trim(recipe, trimmed / "root")
        (trimmed / "complete").touch()
    return trimmed / "root"


def _forget_old(cache: Path) -> None:
    """Remove trees that no build has made for a week: each edit of the recipe leaves one of 200 MB."""
    newest = max((path.stat().st_mtime for path in cache.glob("*/complete")), default=0.0)
    for path in cache.glob("base-*/complete"):
        if path.stat().st_mtime < newest - 7 * 86400:
            shutil.rmtree(path.parent)


def _bootstrap(recipe: Recipe, root: Path, cache: Path, epoch: int) -> None:
    archives = cache / f"debs-{recipe.architecture}"
    archives.mkdir(exist_ok=True)
    programs.run(
        [
            # Mounts of its own: they end with it, however it ends, and nothing that cleans up can walk into them.
            "unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory",
            f"--architectures={recipe.architecture}",
            "--aptopt=APT::Install-Recommends \"false\"",
            *_proxies(),
            *(f"--dpkgopt={word}" for word in _EXCLUDED),
            # Packages that were fetched once are not fetched again.
            "--skip=download/empty", "--skip=essential/unlink",
            # It asks for another package just to look whether programs of that architecture run; `foreign` saw to it.
            "--skip=check/qemu",
            f"--setup-hook=mkdir -p \"$1\"/var/cache/apt/archives && cp -a {archives}/. \"$1\"/var/cache/apt/archives/",
            f"--customize-hook=cp -n \"$1\"/var/cache/apt/archives/*.deb {archives}/",
            f"--include={','.join(recipe.packages)}",
            recipe.suite, root, "-",
        ],
        stdin=sources().encode(),
        # The initial RAM disk is ours: making Debian's takes a minute.
        environment={"SOURCE_DATE_EPOCH": str(epoch), "INITRD": "No", "TMPDIR": "/var/tmp"},  # noqa: S108 - /tmp may be small
    )  # fmt: skip


def extract(target: Path, suite: str, architecture: str, packages: tuple[str, ...]) -> None:
    """Unpack packages of another architecture, and what they depend on, into a new tree. Nothing of them runs."""
    programs.run(
        [
            "mmdebstrap", "--mode=root", "--variant=extract", "--format=directory", f"--architectures={architecture}",
            "--skip=check/qemu", *_proxies(), f"--include={','.join(packages)}", suite, target, "-",
        ],
        stdin=sources().encode(),
        environment={"TMPDIR": "/var/tmp"},  # noqa: S108 - /tmp may be small
    )  # fmt: skip


def _proxies() -> list[str]:
    """How this machine's apt reaches its mirror."""
    shown = programs.run(["apt-config", "dump", "--format", '%f "%v"%n', "Acquire::http", "Acquire::https"])
    return [f"--aptopt={line}" for line in shown.splitlines() if "::Proxy " in line and not line.endswith('""')]


def _trim(recipe: Recipe, root: Path) -> None:
    version = kernel_version(root)
    shutil.copy2(root / f"boot/vmlinuz-{version}", root / "boot/vmlinuz")
    (root / f"boot/vmlinuz-{version}").unlink()
    _keep_modules(recipe, root, version)
    debian.take_out(root, recipe.purge)
    for pattern in recipe.remove:
        remove(root, pattern)
    for path in walk(root):
        mode = path.lstat().st_mode
        # Everything here runs as root: no program needs to lift itself, and none shall be able to.
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            path.chmod(stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID))
    for link in [path for path in walk(root) if path.is_symlink() and not _leads_somewhere(root, path)]:
        link.unlink()


def kernel_version(root: Path) -> str:
    """The version of the one kernel in the tree. Raises ImageError: there is none, or there are several."""
    found = sorted(path.name for path in (root / "usr/lib/modules").glob("*"))
    if len(found) != 1:
        raise ImageError(f"the tree has {len(found)} kernels ({', '.join(found)}), one is wanted")
    return found[0]


def _keep_modules(recipe: Recipe, root: Path, version: str) -> None:
    place = root / "usr/lib/modules" / version
    known = kernel_modules.dependencies((place / "modules.dep").read_text())
    selection = kernel_modules.select(known, recipe.modules)
    built_in = {kernel_modules.name_of(line) for line in (place / "modules.builtin").read_text().split()}
    unknown = [name for name in selection.unknown if not name.endswith("/") and name.replace("-", "_") not in built_in]
    if unknown:
        raise ImageError(f"the kernel {version} has no modules {', '.join(unknown)}: correct `modules` of the recipe")
    for path in known:
        if path not in selection.paths:
            (place / path).unlink()
    programs.run(["depmod", "-b", root, version])
    for name in ("modules.symbols", "modules.alias", "modules.symbols.bin"):
        # Twins of the binary indexes that modprobe reads.
        (place / name).unlink(missing_ok=True)


def remove(root: Path, pattern: str) -> None:
    """Delete what matches, wherever links on the way lead inside the tree."""
    for path in sorted(root.glob(pattern)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def walk(root: Path) -> list[Path]:
    """Everything below, sorted; links are not followed."""
    return sorted(Path(directory) / name for directory, names, files in os.walk(root) for name in (*names, *files))


def _leads_somewhere(root: Path, link: Path) -> bool:
    target = link.readlink()
    place = root / target.relative_to("/") if target.is_absolute() else link.parent / target
    # What the running system makes is not there yet.
    return place.exists() or place.is_symlink() or str(target).startswith(("/run", "/proc", "/dev", "/var"))


def copy(source: Path, target: Path) -> None:
    """A tree with its owners and times."""
    shutil.rmtree(target, ignore_errors=True)
    programs.run(["cp", "-a", "--reflink=auto", source, target])


def overlay(root: Path, source: Path) -> None:
    """Lay our files over the tree: owned by root, executable or not as they are here, otherwise readable by all."""
    for path in sorted(source.rglob("*")):
        target = root / path.relative_to(source)
        if path.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(path.readlink())
        elif path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)


def settle(root: Path, masked: Iterable[str], enabled: Iterable[str]) -> None:
    """What holds for the whole tree once everything is in: units, mount points, identity that each machine makes."""
    for name in _MOUNT_POINTS:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "root").chmod(0o700)
    units = root / "etc/systemd/system"
    for name in masked:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    for line in enabled:
        enable(root, line)
    # Each boot's own; the initial RAM disk puts the machine's there before anything reads it.
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").write_text("kyoten-router\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("/run/kyoten/resolv.conf")


def enable(root: Path, unit: str) -> None:
    """As `systemctl enable`, for WantedBy and RequiredBy. Raises ImageError: no such unit, or it says nothing of where.

    An instance (``name@one.service``) is enabled by its template.
    """
    head, at, tail = unit.partition("@")
    template = f"{head}@.{tail.rpartition('.')[2]}" if at else unit
    file = next(
        (place for where in ("etc", "usr/lib") if (place := root / where / "systemd/system" / template).exists()), None
    )
    if file is None:
        raise ImageError(f"unit {unit} is to be enabled and is not in the tree")
    wanted = [
        line.partition("=") for line in file.read_text().splitlines() if line.startswith(("WantedBy=", "RequiredBy="))
    ]
    if not wanted:
        raise ImageError(f"unit {unit} is to be enabled and has no [Install] section that says where")
    for key, _, targets in wanted:
        for target in targets.split():
            place = root / "etc/systemd/system" / f"{target}.{'wants' if key == 'WantedBy' else 'requires'}"
            place.mkdir(parents=True, exist_ok=True)
            (place / unit).unlink(missing_ok=True)
            (place / unit).symlink_to(f"/{file.relative_to(root)}")


def units(*files: Path) -> tuple[str, ...]:
    """The units that these list files name."""
    return tuple(unit for file in files if file.exists() for unit in lines(file.read_text()))
