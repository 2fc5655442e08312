"""The agent and its Python packages in the tree: wheels unpacked into one directory, our own sources beside them.

Wheels are zip files (PEP 427): unpacked as they are, without an installer that would write times and paths. Byte code
is made with an unchecked hash (PEP 552): whatever the times of the files, Python takes it and compiles nothing at boot.
"""

import shutil
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from firmware.image import places, programs
from firmware.image.errors import ImageError
from firmware.image.recipe import ARCHITECTURES, Recipe

#: Where it all lies on the router.
SITE = Path("usr/lib/kyoten/site")
#: Our packages that the agent is made of. The build of images stays at home.
OURS = ("router_agent", "linux", "firmware")
OWN_NAME = "kyoten"
_LEFT_OUT = ("firmware/image", "firmware/repository")

#: What wheels bring and a router does not run.
_UNUSED = ("*/tests", "*/test", "*.c", "*.h", "*.pyi", "cffi/recompiler.py")

_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class PythonPackage:
    """One unpacked wheel. ``licence``: what its metadata say, perhaps nothing."""

    name: str
    version: str
    licence: str
    sha256: str


def fetch(recipe: Recipe, pinned: Mapping[str, str], cache: Path) -> list[Path]:
    """The wheels, out of the cache or by pip. Raises ImageError: one is not pinned or has no wheel."""
    unpinned = [name for name in recipe.python if name not in pinned]
    if unpinned:
        raise ImageError(f"constraints.txt pins no version of {', '.join(unpinned)}: pin them")
    place = cache / f"wheels-{recipe.architecture}"
    place.mkdir(exist_ok=True)
    wheels = []
    for name in recipe.python:
        form = f"{name.replace('-', '_')}-{pinned[name]}-*.whl"
        if not list(place.glob(form)):
            machine = ARCHITECTURES[recipe.architecture]
            platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (17, 26, 28, 34, 36)]
            programs.run(
                [
                    sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--only-binary=:all:", f"--dest={place}", f"--platform=manylinux2014_{machine}", *platforms,
                    f"--python-version={_PYTHON[0]}.{_PYTHON[1]}", f"{name}=={pinned[name]}",
                ]
            )  # fmt: skip
        found = sorted(place.glob(form))
        if len(found) != 1:
            raise ImageError(f"{len(found)} wheels of {name} {pinned[name]} in {place}, one is wanted")
        wheels += found
    return wheels


def unpack(wheels: list[Path], root: Path) -> list[PythonPackage]:
    """Put the wheels into the tree. Raises ImageError: a wheel that wants more than a directory to lie in."""
    site = root / SITE
    site.mkdir(parents=True, exist_ok=True)
    found = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                head = info.filename.partition("/")[0]
                if head.endswith(".data") or ".." in info.filename.split("/") or info.filename.startswith("/"):
                    raise ImageError(f"{wheel.name} has {info.filename}: only plain packages can be unpacked")
                if not info.is_dir():
                    target = site / info.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(info))
        found.append(_described(site, wheel))
    for pattern in _UNUSED:
        for path in sorted(site.glob(pattern)) + sorted(site.glob(f"*/**/{pattern.removeprefix('*/')}")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return found


def _described(site: Path, wheel: Path) -> PythonPackage:
    name, version = wheel.name.split("-")[:2]
    (place,) = (path for path in site.glob("*.dist-info") if path.name.lower() == f"{name}-{version}.dist-info".lower())
    metadata = HeaderParser().parsestr((place / "METADATA").read_text(encoding="utf-8"))
    classifiers = [word.rpartition(" :: ")[2] for word in metadata.get_all("Classifier", []) if "License ::" in word]
    licence = metadata["License-Expression"] or metadata["License"] or " AND ".join(classifiers)
    return PythonPackage(
        metadata["Name"], metadata["Version"], licence.strip().splitlines()[0] if licence else "", places.sha256(wheel)
    )


def installed(root: Path) -> list[tuple[str, str]]:
    """Name and version of each Python package in a tree, without ours."""
    found = []
    for place in sorted((root / SITE).glob("*.dist-info")):
        metadata = HeaderParser().parsestr((place / "METADATA").read_text(encoding="utf-8"))
        if metadata["Name"] != OWN_NAME:
            found.append((str(metadata["Name"]), str(metadata["Version"])))
    return found


def install_agent(root: Path, version: str) -> None:
    """Our own packages, the commands, and the metadata that tell the agent its version."""
    site = root / SITE
    for package in OURS:
        source = places.ROOT / package
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(places.ROOT)
            if path.is_dir() or "__pycache__" in path.parts or str(relative).startswith(_LEFT_OUT):
                continue
            target = site / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    metadata = site / f"kyoten-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {OWN_NAME}\nVersion: {version}\nLicense: Apache-2.0\n"
    )
    # -I would drop the path, -S Debian's; -s and -E: nobody's directory or variable changes what runs as root.
    command = root / "usr/bin/kyoten-agent"
    command.write_text(
        "#!/usr/bin/python3 -sE\n"
        "import sys\n"
        f"sys.path.insert(1, '/{SITE}')\n"
        "from router_agent.cli import main\n"
        "sys.exit(main())\n"
    )
    command.chmod(0o755)


def compile_all(root: Path) -> None:
    """Byte code for all of Python in the tree, by the tree's own Python. Raises ImageError."""
    for path in [*root.glob("usr/lib/python3*/**/__pycache__"), *(root / SITE).glob("**/__pycache__")]:
        shutil.rmtree(path)
    programs.run(
        [
            "chroot", root, "python3", "-sE", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
            "/usr/lib/python3.11", f"/{SITE}",
        ]
    )  # fmt: skip
