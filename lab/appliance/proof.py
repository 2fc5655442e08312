"""The image in the lab's world: enrolled at its first start, serving its site, and coming back from releases that fail.

``python -m lab.appliance.proof IMAGE DIRECTORY [STEP...]`` in a box; each step says what it measured, the last line is
JSON. A step that fails ends the run with status 1. Times are those of an emulated processor.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path

from cloudside.vpn.connections import CONNECTION
from firmware import layout, slotblock
from firmware.bootstate import Attempt, BootState, Trial
from firmware.layout import Slot
from firmware.trees import BLOCK_BYTES
from lab import ground, topology, world
from lab.appliance import cabling, disks
from lab.appliance.machine import Appliance, Firmware
from lab.network import Host, LabError, wait_until
from lab.topology import Plan
from lab.world import World
from linux.charon import Charon
from linux.charon_process import socket_path
from linux.errors import CharonUnavailableError

SITE, DEVICE, NUMBER = "tokyo-1", "plc", 1
#: Longest times, in seconds, on a machine that does other things too.
TUNNEL_S = 600.0
CONSOLE_S = 400.0

#: The small world, in which the cloud's web server may also ask the plant's controller.
PLAN: Plan = replace(
    topology.SMALL,
    policies={
        "acme": "tenant: acme\nallow:\n"
        "  - {from: tokyo-1, to: web, services: [http, ping]}\n"
        "  - {from: web, to: tokyo-1, services: [http, ping]}\n"
    },
)

#: Resident memory of all processes in KiB, each page counted once and then as often as it is used.
_MEMORY = (
    "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | awk '/^Pss:/ {pss += $2} /^Rss:/ {rss += $2} END {print pss, rss}'"
)
#: What the root is: device, place, kind, first option.
_ROOT = 'awk \'$2 == "/" {split($4, o, ","); print $1, $2, $3, o[1]}\' /proc/mounts'

Figures = dict[str, float]


@dataclass(slots=True)
class Scene:
    """The world, and the machine in the place of one router."""

    world: World
    machine: Appliance
    figures: Figures = field(default_factory=dict)

    @property
    def disk(self) -> Path:
        """The machine's disk."""
        return self.machine.disk

    def close(self) -> None:
        """Switch the machine off and end the cloud; the box can have another scene then."""
        self.machine.power_cut()
        self.world.close()
        shutil.rmtree(self.world.ground.network.directory)

    def say(self, text: str) -> None:
        """To whoever watches."""
        say(text)


def say(text: str) -> None:
    """To whoever watches, where there is no scene yet."""
    sys.stderr.write(f"appliance: {text}\n")
    sys.stderr.flush()


def build(
    image: Path,
    directory: Path,
    *,
    firmware: Firmware = Firmware.BIOS,
    bundle: bool = True,
    lease_s: int = cabling.LEASE_S,
) -> Scene:
    """A cloud that runs, the wires, and a machine that is off, with the site's bundle on its config partition or
    without. ``lease_s``: for how long its line has an address."""
    # An emulated router needs some seconds for a heartbeat.
    made = world.build(PLAN, settings_confirm_s=90)
    made.start_cloud()
    site = made.ground.sites[SITE]
    ports = cabling.plug_in(made.ground.internet, site, NUMBER, lease_s=lease_s)
    disk = disks.copy(image, directory / "disk.img")
    if bundle:
        disks.put_on_config(disk, made.bundles[SITE], f"{SITE}.bundle")
    machine = Appliance(directory / "machine", disk, firmware=firmware, host=site.router, ports=ports)
    wait_until(
        "the gateway's charon", lambda: (made.config.runtime_directory / "charon/charon.pid").exists(), timeout_s=60
    )
    return Scene(made, machine)


def first_start(scene: Scene) -> None:
    """Power on for the first time: the bundle is taken, the tunnel comes up, the medium is clean."""
    scene.figures["first_boot_to_tunnel_s"] = start(scene)
    if disks.files_on_config(scene.disk) & {f"{SITE}.bundle"}:
        raise LabError("the bundle is still on the config partition")
    scene.say(f"enrolled, and its tunnel is up {scene.figures['first_boot_to_tunnel_s']:.1f} s after power-on")


def serves(scene: Scene) -> None:
    """A device behind it is reached from the cloud, it reaches the cloud, and the agent is heard."""
    plc = scene.world.ground.sites[SITE].controllers[DEVICE]
    web = scene.world.ground.servers["web"]
    plan = scene.world.ground.sites[SITE].plan
    wait_until("a heartbeat", lambda: SITE in scene.world.heard_of(), timeout_s=TUNNEL_S, every_s=1)
    for host, target in ((web, plan.overlay_address(DEVICE)), (plc, PLAN.servers["web"][1])):
        wait_until(f"{host.name} reaches {target}", _pings(host, target), timeout_s=60, every_s=1)
    scene.say(f"the cloud reaches {SITE}/{DEVICE}, and {DEVICE} the cloud; the agent is heard")


def memory(scene: Scene) -> None:
    """What everything but the kernel holds when nothing is going on."""
    time.sleep(20)
    shown = scene.world.kyoten("ssh", SITE, _MEMORY, timeout_s=300).stdout.split()
    scene.figures["rss_idle_mib"] = round(int(shown[0]) / 1024, 1)
    scene.figures["rss_summed_mib"] = round(int(shown[1]) / 1024, 1)
    scene.say(f"{scene.figures['rss_idle_mib']} MiB resident ({scene.figures['rss_summed_mib']} summed)")


def verity(scene: Scene) -> None:
    """The root is a verity device, and nobody can write to it."""
    shown = scene.world.kyoten("ssh", SITE, _ROOT, timeout_s=300).stdout
    scene.figures["root_is_verity"] = int(f"/dev/mapper/{layout.ROOT_DEVICE_NAME} / squashfs ro" in shown)
    scene.say(f"its root: {' '.join(shown.split())}")


def closed(scene: Scene) -> None:
    """Nothing of the router answers the Internet: no connection, no refusal, no datagram. The gateway does, by the same
    scan."""
    open_, silent = (_scan(scene, str(address)) for address in (topology.GATEWAY_PUBLIC, _own_address(scene)))
    if not open_["open"]:
        raise LabError("the scan finds nothing at the gateway either: it shows nothing")
    scene.figures["answers_to_internet"] = sum(map(len, silent.values()))
    scene.say(f"to the Internet the router answers at {silent}, the gateway at {open_['open']} (TCP)")
    if scene.figures["answers_to_internet"]:
        raise LabError(f"the router answers the Internet: {silent}")


def _scan(scene: Scene, address: str) -> dict[str, list[int]]:
    ended = scene.world.ground.internet.run([sys.executable, "-m", "lab.scan", address], timeout_s=120)
    found: dict[str, list[int]] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _own_address(scene: Scene) -> IPv4Address:
    return ground.uplink_address(NUMBER, scene.world.ground.sites[SITE].plan)


def second_start(scene: Scene) -> None:
    """The plug is pulled, and put in again."""
    scene.machine.power_cut()
    scene.figures["boot_to_tunnel_s"] = start(scene)
    scene.say(f"after a power cut its tunnel is up {scene.figures['boot_to_tunnel_s']:.1f} s after power-on")


def broken_release(scene: Scene) -> None:
    """Slot B on trial has another tree than its block says: it does not even mount, and slot A comes back."""
    scene.machine.power_cut()
    image = _slot_a(scene.disk)
    block = slotblock.parse(image[-BLOCK_BYTES:])
    spoilt = replace(block, root_hash="00" * 32)
    disks.write(scene.disk, layout.SLOT_B, 0, image[:-BLOCK_BYTES] + slotblock.render(spoilt))
    _begin_trial(scene, "broken", 900)
    scene.figures["broken_to_tunnel_s"] = _returns(scene)
    scene.say(f"a release that does not mount: back after {scene.figures['broken_to_tunnel_s']:.1f} s")


def rotten_kernel(scene: Scene) -> None:
    """Slot B on trial has a kernel that is not the one whose sum is beside it: GRUB starts slot A at once."""
    scene.machine.power_cut()
    image = bytearray(_slot_a(scene.disk))
    # Somewhere in the first of the two large files: the kernel.
    kernel = image.index(b"HdrS") + 100_000
    image[kernel : kernel + 16] = bytes(16)
    disks.write(scene.disk, layout.SLOT_B, 0, bytes(image))
    _begin_trial(scene, "rotten", 900)
    scene.figures["rotten_to_tunnel_s"] = _returns(scene)
    if "slot B cannot be loaded" not in scene.machine.console():
        raise LabError("GRUB did not notice that the kernel is rotten")
    scene.say(f"a rotten kernel: back after {scene.figures['rotten_to_tunnel_s']:.1f} s")


def uncommitted_release(scene: Scene) -> None:
    """Slot B on trial works, but nobody commits it: its guard ends it at the deadline."""
    scene.machine.power_cut()
    disks.write(scene.disk, layout.SLOT_B, 0, _slot_a(scene.disk))
    deadline_s = 150
    _begin_trial(scene, "unkept", deadline_s)
    scene.figures["unkept_to_tunnel_s"] = _returns(scene)
    if scene.figures["unkept_to_tunnel_s"] < deadline_s:
        raise LabError("the guard did not wait for the deadline")
    scene.say(f"a release that nobody keeps: back after {scene.figures['unkept_to_tunnel_s']:.1f} s")


#: By name, in an order in which they can follow each other.
STEPS: Mapping[str, Callable[[Scene], None]] = {
    "first-start": first_start,
    "serves": serves,
    "verity": verity,
    "memory": memory,
    "closed": closed,
    "second-start": second_start,
    "rotten-kernel": rotten_kernel,
    "broken-release": broken_release,
    "uncommitted-release": uncommitted_release,
}


def start(scene: Scene) -> float:
    """Power on, and wait for the tunnel that this start makes; seconds."""
    before, begun = tunnel(scene.world), time.monotonic()
    scene.machine.start()
    _new_tunnel(scene, before)
    return round(time.monotonic() - begun, 1)


def _returns(scene: Scene) -> float:
    """Power on into a trial that fails; seconds until slot A has its tunnel again."""
    before, begun = len(scene.machine.console()), time.monotonic()
    scene.machine.start()
    scene.machine.wait_for("slot B (trial)", timeout_s=CONSOLE_S, after=before)
    scene.machine.wait_for("slot A (primary)", timeout_s=CONSOLE_S, after=before)
    # A trial that worked had a tunnel, too: the one that counts is made now.
    _new_tunnel(scene, tunnel(scene.world))
    state = disks.boot_state(scene.disk)
    if state.primary is not Slot.A:
        raise LabError(f"the primary is {state.primary} now")
    return round(time.monotonic() - begun, 1)


def _new_tunnel(scene: Scene, before: int) -> None:
    try:
        wait_until(f"a tunnel of {SITE}", lambda: tunnel(scene.world) > before, timeout_s=TUNNEL_S, every_s=0.2)
    except LabError as error:
        raise LabError(f"{error}; the console ends with:\n{scene.machine.console()[-3000:]}") from None


def tunnel(made: World) -> int:
    """The gateway's running number of the site's newest tunnel; 0: it has none."""
    charon = Charon(socket_path(made.config.runtime_directory / "charon"))
    try:
        found = [sa for sa in charon.sas(connection=CONNECTION) if sa.remote_id == SITE]
    except CharonUnavailableError:
        return 0
    finally:
        charon.close()
    return max((sa.unique_id for sa in found if any(child.state == "INSTALLED" for child in sa.children)), default=0)


def _begin_trial(scene: Scene, trial_id: str, seconds: int) -> None:
    before = disks.boot_state(scene.disk)
    trial = Trial(Slot.B, trial_id, seconds)
    disks.set_boot_state(scene.disk, BootState(before.seq + 1, Slot.A, trial, frozenset({Slot.A})), Attempt())


def _slot_a(disk: Path) -> bytes:
    head = disks.read(disk, layout.SLOT_A, 0, slotblock.SUPERBLOCK_BYTES)
    blocks = slotblock.data_blocks(head)
    return disks.read(disk, layout.SLOT_A, 0, slotblock.position(blocks) + BLOCK_BYTES)


def _pings(host: Host, target: IPv4Address) -> Callable[[], bool]:
    return lambda: host.run(["ping", "-c", "1", "-W", "2", str(target)], check=False).status == 0


def main(argv: list[str]) -> int:
    """See the module."""
    image, directory, *names = argv
    kinds = {kind.value: kind for kind in Firmware}
    firmware = next((kinds[name] for name in names if name in kinds), Firmware.BIOS)
    wanted = [name for name in names if name not in kinds] or list(STEPS)
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    scene = build(Path(image), place, firmware=firmware)
    return run(scene, [STEPS[name] for name in wanted])


def run(scene: Scene, steps: Iterable[Callable[[Scene], None]]) -> int:
    """Take the steps and close the scene; figures and exit status as a command's."""
    try:
        for step in steps:
            step(scene)
    except LabError as error:
        scene.say(f"{error}")
        sys.stderr.write(scene.machine.console()[-4000:])
        return 1
    finally:
        scene.close()
    sys.stdout.write(json.dumps(scene.figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
