"""Somebody stands at the router: a dead clock, a larger disk, and a login at the serial line.

``python -m lab.appliance.console IMAGE DIRECTORY [STEP...]`` in a box. The machine's battery is empty (1970, then
2038), its disk is larger than the image; its tunnel comes up all the same, the data partition grows, and the serial
line gives a shell to whoever has the response, and to nobody else.
"""

import json
import re
import socket
import sys
import time
from pathlib import Path

from firmware import console
from firmware.layout import MIB
from lab.appliance import proof
from lab.appliance.machine import Appliance, Firmware
from lab.appliance.proof import SITE, TUNNEL_S, Scene
from lab.network import LabError, wait_until

DISK_MIB = 5120
EMPTY, FAR = "1970-01-01T00:00:00", "2038-01-18T00:00:00"
#: The emulated router starts a Python for each visitor.
_PATIENCE_S = 180.0
_FACTS = "date +%s; cat /sys/class/block/vda7/size; stat -f -c '%b %S' /var; ls /var/lib/kyoten"


class Visitor:
    """Somebody with a laptop on the serial line."""

    def __init__(self, machine: Appliance) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(machine.line()))
        self._socket.settimeout(1.0)
        self.seen = ""

    def types(self, text: str) -> None:
        """A line, and Enter; what was seen before counts no more."""
        self.seen = ""
        self._socket.sendall(f"{text}\r".encode())

    def sees(self, pattern: str) -> "re.Match[str]":
        """Wait until it is there. Raises LabError."""
        ends = time.monotonic() + _PATIENCE_S
        while (found := re.search(pattern, self.seen)) is None:
            if time.monotonic() > ends:
                raise LabError(f"the serial line never showed {pattern!r}: {self.seen[-1500:]}")
            try:
                self.seen += self._socket.recv(4096).decode(errors="replace").replace("\r", "")
            except TimeoutError:
                continue
        return found

    def leaves(self) -> None:
        """Pull the cable."""
        self._socket.close()


def battery_empty(scene: Scene) -> None:
    """The clock begins in 1970, and the tunnel comes up; by then the clock is right."""
    scene.figures["clock_1970_to_tunnel_s"] = proof.start(scene)
    scene.figures["clock_1970_off_s"] = _off_s(scene)
    scene.say(f"begun in 1970: tunnel after {scene.figures['clock_1970_to_tunnel_s']:.1f} s; {_said(scene)}")


def far_ahead(scene: Scene) -> None:
    """The same in 2038, from a disk whose table has grown."""
    scene.machine.power_cut()
    _put_clock(scene, FAR)
    scene.figures["clock_2038_to_tunnel_s"] = proof.start(scene)
    scene.figures["clock_2038_off_s"] = _off_s(scene)
    scene.say(f"begun in 2038: tunnel after {scene.figures['clock_2038_to_tunnel_s']:.1f} s; {_said(scene)}")


def grows(scene: Scene) -> None:
    """The data partition and its file system reach to the end of the disk, and no growth is left to finish."""

    def grown() -> bool:
        facts = _facts(scene)
        return int(facts[1]) * 512 > (DISK_MIB - 1700) * MIB and "growing" not in facts

    wait_until("the data partition", grown, timeout_s=400, every_s=10)
    facts = _facts(scene)
    blocks, size = (int(word) for word in facts[2].split())
    scene.figures["data_partition_mib"] = int(facts[1]) * 512 // MIB
    scene.figures["data_file_system_mib"] = blocks * size // MIB
    scene.say(f"data partition {scene.figures['data_partition_mib']} MiB, its file system {blocks * size // MIB}")
    if scene.figures["data_file_system_mib"] < 0.9 * scene.figures["data_partition_mib"]:
        raise LabError("the file system has not grown")


def logs_in(scene: Scene) -> None:
    """A wrong response gives nothing, the right one a shell as root, once; the cloud hears of it."""
    visitor = Visitor(scene.machine)
    begun = time.monotonic()
    visitor.types("")
    challenge = visitor.sees(rf"kyoten site console {SITE} ((?:[0-9A-Z]{{4}}-?){{3}})")[1]
    scene.figures["console_challenge_s"] = round(time.monotonic() - begun, 1)
    visitor.sees("Response: ")
    visitor.types(console.write(console.Kind.RESPONSE, 1))
    visitor.sees("Tries left: 2")
    given = json.loads(scene.world.kyoten("--json", "site", "console", SITE, challenge, "--reason", "proof").stdout)
    visitor.types(str(given["response"]).lower().replace("-", " "))
    visitor.sees("Logged in as root")
    visitor.types("echo uid $(id -u) tty $(tty); ls /var/lib/kyoten-agent/console/logins | wc -l")
    visitor.sees(r"uid 0 tty /dev/\w+\n1\n")
    _incident(scene, open_=True)
    visitor.types("exit")
    visitor.sees("Press Enter to log in")
    _incident(scene, open_=False)
    visitor.types("")
    if visitor.sees(rf"kyoten site console {SITE} ((?:[0-9A-Z]{{4}}-?){{3}})")[1] == challenge:
        raise LabError("the same challenge twice")
    visitor.types(str(given["response"]))
    visitor.sees("Tries left")
    visitor.leaves()
    scene.say(f"serial line: challenge after {scene.figures['console_challenge_s']} s, response, shell, reported, over")


def grown_table_under_uefi(scene: Scene) -> None:
    """The other firmware finds the partitions of the grown table, too."""
    scene.machine.power_cut()
    other = Appliance(scene.machine.directory.with_name("uefi"), scene.disk, firmware=Firmware.UEFI)
    other.start()
    try:
        scene.figures["uefi_to_grub_s"] = round(other.wait_for("slot A (primary)", timeout_s=proof.CONSOLE_S), 1)
        other.wait_for("kyoten: slot A, ", timeout_s=proof.CONSOLE_S)
    finally:
        other.power_cut()
    scene.say("UEFI finds its partition in the grown table, GRUB and kernel the slot's")


def _incident(scene: Scene, *, open_: bool) -> None:
    def is_so() -> bool:
        shown = json.loads(scene.world.kyoten("--json", "incident", "list").stdout)["incidents"]
        return any(one["kind"] == "console-login" and one["subject"] == SITE for one in shown) is open_

    wait_until(f"the incident of the login {'open' if open_ else 'over'}", is_so, timeout_s=120, every_s=2)


def _facts(scene: Scene) -> list[str]:
    return scene.world.kyoten("ssh", SITE, _FACTS, timeout_s=300).stdout.splitlines()


def _off_s(scene: Scene) -> float:
    """How far the router's clock is off, at most; a login takes seconds."""
    wait_until("a heartbeat", lambda: SITE in scene.world.heard_of(), timeout_s=TUNNEL_S, every_s=1)
    before = time.time()
    there = int(_facts(scene)[0])
    off = 0.0 if before - 3 <= there <= time.time() + 3 else max(before - there, there - time.time())
    if off:
        raise LabError(f"the router's clock is {off:.0f} s off")
    return off


def _said(scene: Scene) -> str:
    looked = "grep -h 'the clock was set' /var/lib/kyoten-agent/agent.log | tail -2"
    return "; ".join(scene.world.kyoten("ssh", SITE, looked, timeout_s=300).stdout.splitlines())


def _put_clock(scene: Scene, clock: str) -> None:
    old = scene.machine
    scene.machine = old.at_a_desk(clock)


def main(argv: list[str]) -> int:
    """See the module."""
    image, directory, *names = argv
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    scene = proof.build(Path(image), place)
    with scene.disk.open("r+b") as stream:
        stream.truncate(DISK_MIB * MIB)
    _put_clock(scene, EMPTY)
    steps = (battery_empty, logs_in, grows, far_ahead, grown_table_under_uefi)
    return proof.run(scene, [step for step in steps if not names or step.__name__ in names])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
