"""What the machine boots with besides its kernel: the virtual environment as a disk, the initial RAM disk.

Over 9p alone the first import of the product's libraries takes more than ten seconds, hence the disk. The repository
stays on 9p: what runs inside is what is on disk now.
"""

import hashlib
import shutil
import sys
from pathlib import Path

from lab.vm import cache
from lab.vm.cache import VmError
from lab.vm.kernel import Kernel

BUSYBOX = Path("/bin/busybox")
INIT = Path(__file__).with_name("init.sh")


def environment_disk(place: Path) -> Path:
    """A disk with this virtual environment; made anew when something was installed into it. Raises VmError."""
    environment = Path(sys.prefix)
    state = [str(environment), *(f"{entry.name} {entry.stat().st_mtime_ns}" for entry in _packages(environment))]
    name = hashlib.sha256(str(environment).encode()).hexdigest()[:12]
    disk = place / f"environment-{name}.squashfs"
    stamp = disk.with_suffix(".state")
    wanted = hashlib.sha256("\n".join(state).encode()).hexdigest()
    if not disk.exists() or not stamp.exists() or stamp.read_text() != wanted:
        cache.make_disk(environment, disk)
        stamp.write_text(wanted)
    return disk


def _packages(environment: Path) -> list[Path]:
    return sorted(environment.glob("lib/python*/site-packages/*")) + sorted(environment.glob("bin/*"))


def initial_ram_disk(directory: Path, kernel: Kernel) -> Path:
    """Busybox, the modules that lead to the root, process 1; made in ``directory``. Raises VmError."""
    if not BUSYBOX.exists():
        raise VmError(f"the program {BUSYBOX} is missing: run `lab/setup.sh vm`")
    tree = cache.empty(directory / "tree")
    (tree / "bin").mkdir()
    (tree / "boot").mkdir()
    shutil.copy(BUSYBOX, tree / "bin" / "busybox")
    for module in kernel.boot_modules:
        shutil.copy(module, tree / "boot" / module.name)
    (tree / "boot" / "order").write_text("".join(f"{module.name}\n" for module in kernel.boot_modules))
    shutil.copy(INIT, tree / "init")
    (tree / "init").chmod(0o755)
    cache.run(["sh", "-c", f"find . | {BUSYBOX} cpio -o -H newc > ../initrd"], directory=tree)
    shutil.rmtree(tree)
    return directory / "initrd"
