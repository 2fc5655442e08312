"""Building for another processor: programs of its tree run here, emulated, and this machine is not changed.

The kernel is told who runs the other processor's programs (binfmt_misc) in a user namespace of the build's own, which
since Linux 6.7 has a table of its own; it ends with the build. The emulator is fetched by apt and unpacked into the
cache. Where the machine can run such programs already, none of this is needed.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from firmware.image import programs
from firmware.image.errors import ImageError
from firmware.image.recipe import ARCHITECTURES

_PACKAGE = "qemu-user-static"
_TABLE = Path("/proc/sys/fs/binfmt_misc")
_INSIDE = "KYOTEN_IMAGE_EMULATES"

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
#: Every user and group of this machine is itself in there: a tree has many owners.
_IDS = 65536

#: How such a program begins: an ELF file of 64 bits for this machine (elf(5): e_machine at 18), and which bits count.
_MAGIC = "\\x7fELF\\x02\\x01\\x01" + "\\x00" * 9 + "\\x02\\x00{machine}"
_MASK = "\\xff" * 7 + "\\x00" + "\\xff" * 8 + "\\xfe\\xff\\xff\\xff"
_MACHINES = {"arm64": "\\xb7\\x00", "amd64": "\\x3e\\x00"}


def needed(architecture: str) -> bool:
    """Whether this machine has to be taught to run programs for ``architecture``."""
    machine = ARCHITECTURES[architecture]
    if os.uname().machine == machine or os.environ.get(_INSIDE) == architecture:
        return False
    return not any(path.name.endswith(machine) for path in _TABLE.glob("qemu-*"))


def registration(architecture: str, emulator: Path) -> str:
    """What binfmt_misc is told (kernel: Documentation/admin-guide/binfmt-misc.rst). The kernel reads the escapes
    itself. F: it opens the emulator at once, so that a chroot does not hide it. Pure."""
    return f":kyoten:M::{_MAGIC.format(machine=_MACHINES[architecture])}:{_MASK}:{emulator}:F"


def again(architecture: str, cache: Path) -> int:
    """Run this very command again where such programs run; its exit status. Raises ImageError."""
    emulator = _emulator(architecture, cache)
    line = registration(architecture, emulator)
    asked, told = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os._exit(_inside(line, architecture, asked[1], told[0]))
        except BaseException as error:  # a forked child must not return into its parent's code
            os.write(2, f"image: {error}\n".encode())
            os._exit(1)
    os.close(asked[1])
    if os.read(asked[0], 1):
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{kind}").write_text(f"0 0 {_IDS}\n")
        os.write(told[1], b"x")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _inside(line: str, architecture: str, asked: int, told: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID):
        raise ImageError(f"no user namespace can be made here: {os.strerror(ctypes.get_errno())}")
    os.write(asked, b"x")
    os.read(told, 1)
    os.setgid(0)
    os.setuid(0)
    if libc.mount(b"none", str(_TABLE).encode(), b"binfmt_misc", 0, None):
        raise ImageError(
            "this kernel has no binfmt_misc for user namespaces (Linux 6.7): build on such a machine itself"
        )
    (_TABLE / "register").write_text(line)
    words = [sys.executable, "-m", "firmware.image", *sys.argv[1:]]
    # The first process of the new process namespace mounts its own /proc, as chroots want it.
    argv = ["sh", "-c", 'mount -t proc proc /proc && "$@"', "sh", *words]
    return subprocess.run(argv, env={**os.environ, _INSIDE: architecture}, check=False).returncode


def _emulator(architecture: str, cache: Path) -> Path:
    place = cache / "emulator"
    program = place / f"usr/bin/qemu-{ARCHITECTURES[architecture]}-static"
    if not program.exists():
        place.mkdir(exist_ok=True)
        programs.run(["apt-get", "-qq", "download", _PACKAGE], directory=place)
        for package in place.glob("*.deb"):
            programs.run(["dpkg-deb", "-x", package, place])
            package.unlink()
    return program
