"""One virtual machine: boot it, run one command in it, relay what it writes, end it whatever happens.

The command's output comes by two virtio ports and its exit status by a third, each into a pipe; the kernel's own words
go to a serial line and are shown only when the machine fails. The machine has no network but the namespaces made in it.
"""

import ctypes
import fcntl
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lab.vm import cache, image, kernel
from lab.vm.cache import VmError

EMULATOR = "qemu-system-x86_64"
MEMORY_MIB = 3072

#: Set inside: the machine is told from the host by it.
INSIDE_VARIABLE = "KYOTEN_LAB_VM"

#: Longest time, in seconds, that a command may take unless the caller says otherwise.
TIMEOUT_S = 600.0
#: Longest time from power-on to the command. Seven seconds on two idle cores, a minute on busy ones.
BOOT_TIMEOUT_S = 180.0
#: The exit status of a command that was cut short, as timeout(1) has it.
TIMED_OUT = 124

_JOBS = Path("/var/tmp")
_JOB_PREFIX = "kyoten-vm-"
_PORTS = ("out", "err", "status", "console")
_READ_BYTES = 65536
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it wrote if that was kept. ``timed_out``: it was cut short."""

    status: int
    stdout: bytes
    stderr: bytes
    timed_out: bool


def inside() -> bool:
    """Whether this process runs in the virtual machine."""
    return INSIDE_VARIABLE in os.environ


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = TIMEOUT_S,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    relay: bool = False,
    devices: Sequence[str] = (),
) -> Ended:
    """Run ``argv`` as root in a new machine, in ``directory`` (this one by default), without standard input.

    ``devices`` are further words for the emulator, such as a disk. With ``relay`` the output goes to ours as it comes,
    otherwise it is returned. ``timeout_s`` counts from the command's begin. Raises VmError: the machine cannot be
    prepared, does not come up, or ended before the command did.
    """
    with ExitStack() as stack:
        with cache.locked() as place:
            _sweep()
            job = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_JOB_PREFIX, dir=_JOBS)))
            stack.callback(os.close, _claimed(job))
            found = kernel.ensure(place)
            disk = image.environment_disk(place)
        initial = image.initial_ram_disk(job, found)
        _write_job(job, argv, directory or Path.cwd(), environment or {})
        return _Machine([*_emulator_argv(found, initial, disk, job), *devices], relay=relay).run(timeout_s)


def _claimed(job: Path) -> int:
    """A descriptor that marks the directory as in use while it is open. Raises BlockingIOError: it is in use."""
    fd = os.open(job, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    return fd


def _sweep() -> None:
    """Remove what runs that were killed outright have left. The cache is locked: no new one is met half-made."""
    for job in _JOBS.glob(f"{_JOB_PREFIX}*"):
        try:
            fd = _claimed(job)
        except OSError:
            continue
        shutil.rmtree(job, ignore_errors=True)
        os.close(fd)


def _write_job(job: Path, argv: Sequence[str], directory: Path, extra: Mapping[str, str]) -> None:
    """Two shell scripts: what to run, and the variables that it finds."""
    variables = {
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        INSIDE_VARIABLE: "1",
        "KYOTEN_VM_ENVIRONMENT": sys.prefix,
        **extra,
    }
    (job / "environment").write_text(
        "".join(f"export {name}={shlex.quote(text)}\n" for name, text in variables.items())
    )
    (job / "command").write_text(f"cd {shlex.quote(str(directory))} && exec {shlex.join(argv)}\n")


def _emulator_argv(found: kernel.Kernel, initial: Path, disk: Path, job: Path) -> list[str]:
    # mitigations: nobody in there is to be kept from anybody, and emulated they cost most.
    words = f"console=ttyS0 quiet panic=-1 mitigations=off kyoten.job={job}"
    drive = "if=virtio,format=raw,readonly=on,file.locking=off"
    argv = [
        EMULATOR, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none",
        "-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "Westmere,+rdrand", "-smp", "2", "-m", str(MEMORY_MIB),
        "-kernel", str(found.image), "-initrd", str(initial), "-append", words,
        "-drive", f"{drive},file={found.modules_disk}", "-drive", f"{drive},file={disk}",
        "-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
        "-device", "virtio-serial-pci",
        "-serial", "chardev:console",
    ]  # fmt: skip
    for port in _PORTS:
        argv += ["-chardev", f"file,id={port},path=/dev/fdset/{_PORTS.index(port) + 1},append=on"]
        if port != "console":
            argv += ["-device", f"virtserialport,chardev={port},name={port}"]
    return argv


class _Machine:
    """One run of the emulator."""

    def __init__(self, argv: Sequence[str], *, relay: bool) -> None:
        self._argv = argv
        self._relay = {"out": 1, "err": 2} if relay else {}
        self._wrote = {port: bytearray() for port in _PORTS}

    def run(self, timeout_s: float) -> Ended:
        """Until the machine is off. SIGTERM and SIGHUP end it as Ctrl-C does."""
        previous = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            return self._run(timeout_s)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _run(self, timeout_s: float) -> Ended:
        pipes = {port: os.pipe() for port in _PORTS}
        writing = [there for _here, there in pipes.values()]
        fds = [word for number, fd in enumerate(writing, 1) for word in ("-add-fd", f"fd={fd},set={number}")]
        try:
            emulator = subprocess.Popen(
                [*self._argv, *fds],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=writing,
                preexec_fn=_die_with_parent,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        except FileNotFoundError:
            raise VmError(f"the program {EMULATOR} is missing: run `lab/setup.sh vm`") from None
        finally:
            for fd in writing:
                os.close(fd)
        try:
            off = self._follow({port: here for port, (here, _there) in pipes.items()}, timeout_s)
        finally:
            emulator.kill()
            _, complaint = emulator.communicate()
            for here, _there in pipes.values():
                os.close(here)
        return self._ended(off, complaint.decode(errors="replace"))

    def _follow(self, reading: Mapping[str, int], timeout_s: float) -> bool:
        """Read every port until the machine is off; False when the time ran out before."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        begun = False
        with selectors.DefaultSelector() as selector:
            for port, fd in reading.items():
                selector.register(fd, selectors.EVENT_READ, port)
            while selector.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                for key, _events in selector.select(left):
                    data = os.read(key.fd, _READ_BYTES)
                    if not data:
                        selector.unregister(key.fd)
                    elif key.data in self._relay:
                        _write_all(self._relay[key.data], data)
                    else:
                        self._wrote[key.data] += data
                if not begun and self._wrote["status"].startswith(b"begun\n"):
                    begun = True
                    deadline = time.monotonic() + timeout_s
        return True

    def _ended(self, off: bool, complaint: str) -> Ended:
        stdout, stderr = bytes(self._wrote["out"]), bytes(self._wrote["err"])
        words = self._wrote["status"].split()
        if len(words) == 3:
            return Ended(int(words[2]), stdout, stderr, timed_out=False)
        if not off and words:
            return Ended(TIMED_OUT, stdout, stderr, timed_out=True)
        last = "\n".join(self._wrote["console"].decode(errors="replace").splitlines()[-15:])
        what = "ended before the command did" if off else f"did not reach the command in {BOOT_TIMEOUT_S:g} s"
        raise VmError(f"the virtual machine {what}\n{complaint.strip()}\n{last}".rstrip())


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
