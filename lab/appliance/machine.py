"""One router as a virtual machine: power on, power cut, orderly stop, and what its serial console said.

The processor is like those of small router boards, without what only this machine's kernel would need to know of. The
watchdog is the PCI card that the image has a driver for; when it bites, the machine is reset as a board would be.
"""

import copy
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from lab.appliance.monitor import Event, Monitor, MonitorError
from lab.network import Host, LabError, wait_until

MEMORY_MIB = 1024
#: How much translated code the emulator keeps. Each of the boot loader's stores walks what it has of that page: with
#: the emulator's own 1 GiB, a machine that restarts by itself after a quarter of an hour stands in GRUB for minutes.
TRANSLATIONS_MIB = 64
_PR_SET_PDEATHSIG = 1
#: A socket's path has 107 octets.
_SOCKETS = Path("/run")
#: The stick's name in the emulator.
_STICK = "stick"


class Firmware(Enum):
    """What starts the boot loader, and on which processor."""

    BIOS = "bios"
    UEFI = "uefi"
    UEFI_ARM64 = "uefi-arm64"


@dataclass(frozen=True, slots=True)
class _Board:
    """What the emulator is told. ``rom`` and ``variables``: of the UEFI, none for BIOS."""

    emulator: str
    machine: str
    processor: str
    rom: Path | None = None
    variables: Path | None = None
    #: ACPI's ERST, in which a kernel that falls leaves its last words.
    keeps_records: bool = True


_OVMF, _AAVMF = Path("/usr/share/OVMF"), Path("/usr/share/AAVMF")
#: Of AMD, with what its small boards have (GX-412TC). The kernel takes an Intel of that age for open to Meltdown and
#: isolates its page tables: emulated, each system call then empties the TLB, and a start takes a third longer.
_AMD = "Opteron_G3,+ssse3,+sse4.1,+sse4.2,+aes,+pclmulqdq,+rdrand"
_PC = _Board("qemu-system-x86_64", "pc", _AMD)
_BOARDS = {
    Firmware.BIOS: _PC,
    Firmware.UEFI: replace(_PC, machine="q35", rom=_OVMF / "OVMF_CODE_4M.fd", variables=_OVMF / "OVMF_VARS_4M.fd"),
    Firmware.UEFI_ARM64: _Board(
        "qemu-system-aarch64", "virt", "cortex-a72", _AAVMF / "AAVMF_CODE.fd", _AAVMF / "AAVMF_VARS.fd", False
    ),
}


@dataclass(frozen=True, slots=True)
class Port:
    """One network card, in the order of their slots. ``tap``: the interface at its other end, made by `cabling`."""

    tap: str
    mac: str


class Appliance:
    """A machine around a disk image. It ends with the process that started it."""

    def __init__(
        self,
        directory: Path,
        disk: Path,
        *,
        firmware: Firmware = Firmware.BIOS,
        host: Host | None = None,
        ports: Sequence[Port] = (),
        write_log: Path | None = None,
        memory_mib: int = MEMORY_MIB,
        processors: int = 2,
        watchdog: bool = True,
        line: bool = False,
        clock: str | None = None,
        usb: bool = False,
    ) -> None:
        """``host``: the namespace that has the taps. ``write_log``: where every write to the disk is recorded.
        ``line``: somebody may type on the serial line (`line`). ``clock``: what the battery's clock says at power-on,
        UTC: 1970-01-01T00:00:00. ``usb``: it has a socket for a stick (`plug_in`)."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "console.log").touch()
        self.directory = directory
        self.disk = disk
        self.console_log = directory / "console.log"
        self._firmware = firmware
        self._host = host
        self._ports = tuple(ports)
        self._write_log = write_log
        self._memory_mib = memory_mib
        self._processors = processors
        self._watchdog = watchdog
        self._line = line
        self._clock = clock
        self._usb = usb
        self._line_socket: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: Monitor | None = None

    def recording(self, write_log: Path) -> "Appliance":
        """The same machine, which is off, with every write to its disk recorded from its next start on. Each power-on
        begins a recording anew."""
        made = self._another()
        made._write_log = write_log
        return made

    def at_a_desk(self, clock: str | None) -> "Appliance":
        """The same machine, which is off, with somebody at its serial line and this time in its battery's clock."""
        made = self._another()
        made._line, made._clock = True, clock
        return made

    def with_usb(self) -> "Appliance":
        """The same machine, which is off, with a socket for a stick."""
        made = self._another()
        made._usb = True
        return made

    def _another(self) -> "Appliance":
        """This machine once more, off. Raises LabError: it is on."""
        if self.running:
            raise LabError("the machine is on")
        made = copy.copy(self)
        made._process = made._monitor = made._line_socket = None
        return made

    def line(self) -> Path:
        """The socket that is the other end of the serial line."""
        if self._line_socket is None:
            raise LabError("the machine is off, or nobody may type there")
        return self._line_socket

    @property
    def running(self) -> bool:
        """Whether the power is on."""
        return self._process is not None and self._process.poll() is None

    @property
    def monitor(self) -> Monitor:
        """The machine's monitor, while the power is on."""
        if self._monitor is None:
            raise LabError("the machine is off")
        return self._monitor

    def start(self, *, paused: bool = False) -> None:
        """Power on. Raises LabError: the emulator ended at once."""
        if self.running:
            raise LabError("the machine is on already")
        socket = _SOCKETS / f"kyoten-appliance-{os.getpid()}-{time.monotonic_ns()}"
        prefix = ["ip", "netns", "exec", self._host.namespace] if self._host is not None else []
        with (self.directory / "emulator.log").open("ab") as said:
            self._process = subprocess.Popen(
                [*prefix, *self._argv(socket), *(["-S"] if paused else [])],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                preexec_fn=_die_with_parent,
                start_new_session=True,
            )
        try:
            self._monitor = Monitor(socket)
        except MonitorError as error:
            self.power_cut()
            raise LabError(f"{error}: {(self.directory / 'emulator.log').read_text()[-500:]}") from error
        finally:
            socket.unlink(missing_ok=True)

    def stop(self, *, timeout_s: float = 60.0) -> bool:
        """Press the power button and wait; by force after that. Whether the machine went by itself."""
        if self._process is None:
            return True
        try:
            if self.running:
                self.monitor.ask("system_powerdown")
            self._process.wait(timeout_s)
        except (subprocess.TimeoutExpired, MonitorError):
            self.power_cut()
            return False
        self._gone()
        return True

    def power_cut(self) -> None:
        """The plug is pulled: nothing is written any more, nothing is flushed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._gone()

    def reset(self) -> None:
        """The reset button."""
        self.monitor.ask("system_reset")

    def plug_in(self, stick: Path) -> None:
        """Put a USB stick into the machine, which is on. Raises MonitorError."""
        file = {"driver": "file", "filename": str(stick)}
        self.monitor.ask("blockdev-add", {"driver": "raw", "node-name": _STICK, "file": file})
        self.monitor.ask("device_add", {"driver": "usb-storage", "id": _STICK, "drive": _STICK, "removable": True})

    def pull_out(self) -> None:
        """Take the stick out again; what was written to it is in its file. Raises MonitorError, LabError."""
        gone = len(self._unplugged())
        self.monitor.ask("device_del", {"id": _STICK})
        wait_until("the stick is out", lambda: len(self._unplugged()) > gone, timeout_s=20)
        self.monitor.ask("blockdev-del", {"node-name": _STICK})

    def _unplugged(self) -> list[Event]:
        return [
            one for one in self.monitor.events() if one.name == "DEVICE_DELETED" and one.data.get("device") == _STICK
        ]

    def console(self) -> str:
        """Everything on the serial line since the machine was made, whatever it was."""
        return self.console_log.read_bytes().decode(errors="replace").replace("\r", "")

    def wait_for(self, text: str, *, timeout_s: float, after: int = 0, times: int = 1) -> float:
        """Wait until the console shows ``text``, behind its first ``after`` characters; seconds it took.

        Raises LabError with the console's end: it did not, or the machine ended.
        """
        begun = time.monotonic()

        def shown() -> bool:
            found = self.console()[after:].count(text) >= times
            if not found and not self.running:
                found = self.console()[after:].count(text) >= times
                if not found:
                    raise LabError(f"the machine ended before it said {text!r}: {self.console()[-1500:]}")
            return found

        try:
            wait_until(text, shown, timeout_s=timeout_s, every_s=0.1)
        except LabError as error:
            raise LabError(f"{error}; the console ends with {self.console()[-1500:]}") from None
        return time.monotonic() - begun

    def resets(self) -> int:
        """How often the machine was reset since power on, by itself or by the watchdog."""
        return sum(event.name == "RESET" for event in self.monitor.events())

    def _gone(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
        if self._line_socket is not None:
            self._line_socket.unlink(missing_ok=True)
        self._monitor = self._process = self._line_socket = None

    def _argv(self, socket: Path) -> list[str]:
        board = _BOARDS[self._firmware]
        argv = [
            board.emulator, "-nodefaults", "-no-user-config", "-display", "none", "-machine", board.machine,
            "-accel", f"tcg,thread=multi,tb-size={TRANSLATIONS_MIB}",
            "-cpu", board.processor, "-smp", str(self._processors), "-m", str(self._memory_mib),
            "-qmp", f"unix:{socket},server=on,wait=off",
            *self._console_words(socket), "-serial", "chardev:console",
            "-device", "virtio-rng-pci",
            *self._disk_words(),
            *self._firmware_words(board),
        ]  # fmt: skip
        if board.keeps_records:
            # As on a board, it outlives resets.
            records = f"memory-backend-file,id=records,mem-path={self.directory / 'records'},size=64K,share=on"
            argv += ["-object", records, "-device", "acpi-erst,memdev=records"]
        if self._clock is not None:
            argv += ["-rtc", f"base={self._clock}"]
        if self._usb:
            argv += ["-device", "qemu-xhci"]
        if self._watchdog:
            argv += ["-device", "i6300esb", "-action", "watchdog=reset"]
        for number, port in enumerate(self._ports):
            argv += [
                "-netdev", f"tap,id=net{number},ifname={port.tap},script=no,downscript=no",
                "-device", f"virtio-net-pci,netdev=net{number},mac={port.mac},addr={0x10 + number:#x}",
            ]  # fmt: skip
        if not self._ports:
            argv += ["-nic", "none"]
        return argv

    def _console_words(self, socket: Path) -> list[str]:
        if not self._line:
            return ["-chardev", f"file,id=console,path={self.console_log},append=on"]
        self._line_socket = socket.with_name(f"{socket.name}.line")
        heard = f"logfile={self.console_log},logappend=on"
        return ["-chardev", f"socket,id=console,path={self._line_socket},server=on,wait=off,{heard}"]

    def _disk_words(self) -> list[str]:
        """The guest sees a write cache, so that it flushes; the host need not."""
        lazily = "cache.direct=off,cache.no-flush=on"
        words = ["-blockdev", f"driver=file,node-name=image,filename={self.disk},{lazily}"]
        if self._write_log is None:
            words += ["-blockdev", f"driver=raw,node-name=disk,file=image,{lazily}"]
        else:
            self._write_log.touch()
            words += [
                "-blockdev", f"driver=raw,node-name=plain,file=image,{lazily}",
                "-blockdev", f"driver=file,node-name=log,filename={self._write_log},{lazily}",
                "-blockdev", "driver=blklogwrites,node-name=disk,file=plain,log=log",
            ]  # fmt: skip
        return [*words, "-device", "virtio-blk-pci,drive=disk,bootindex=0"]

    def _firmware_words(self, board: _Board) -> list[str]:
        if board.rom is None or board.variables is None:
            return []
        variables = self.directory / "efi-variables.fd"
        if not variables.exists():
            shutil.copy(board.variables, variables)
        return [
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={board.rom}",
            "-drive", f"if=pflash,format=raw,unit=1,file={variables}",
        ]  # fmt: skip


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
