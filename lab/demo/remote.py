"""Remote work: a log pulled, a setting that would cut the router off, SSH into a device, the mobile-line rule."""

import time
from concurrent.futures import ThreadPoolExecutor

from lab import devices
from lab.demo.report import Line
from lab.network import wait_until
from lab.world import World

#: A VPN server that does not exist (RFC 5737): the tunnel that it is told to build can never come up.
NOWHERE = "192.0.2.250"


def log_pulled(world: World) -> list[Line]:
    """`kyoten logs` over the tunnel."""
    start = time.monotonic()
    text = world.kyoten("logs", "tokyo-1", "--lines", "200").stdout
    took = time.monotonic() - start
    lines = text.splitlines()
    # The router's own charon wrote this when its tunnel came up: it cannot come from anywhere else.
    held = any("CHILD_SA" in line for line in lines)
    return [Line("a router's log pulled", held, f"{len(lines)} lines of agent and IKE log in {took:.1f} s")]


def settings_cut_off(world: World) -> list[Line]:
    """A setting that takes the tunnel away is undone by the router itself."""
    start = time.monotonic()
    ended = world.kyoten("site", "set", "nagoya-1", f"tunnel.gateways={NOWHERE}", timeout_s=90, check=False)
    reported_s = time.monotonic() - start
    wait_until("nagoya-1 back", lambda: "nagoya-1" in world.sites_in_charon(), timeout_s=30)
    newest = world.kyoten_json("site", "show", "nagoya-1")["settings"][0]
    return [
        Line(
            "a settings change that cuts the router off is undone by itself",
            ended.status != 0 and newest["state"] == "reverted",
            f"told to use {NOWHERE}; back on its own and reported after {reported_s:.1f} s: {ended.stderr.strip()}",
        )
    ]


def ssh_into_device(world: World) -> list[Line]:
    """`kyoten ssh SITE/DEVICE COMMAND`, host key pinned; then the same device with another key is refused."""
    host = world.ground.sites["tokyo-1"].controllers["panel"]
    devices.start_ssh(world, "tokyo-1", "panel")
    login = ("ssh", "--user", "root", "--identity", str(devices.operator_key(world)), "tokyo-1/panel")
    start = time.monotonic()
    ended = world.kyoten(*login, "ip -4 -o addr show eth0", check=False)
    took = time.monotonic() - start
    inside = str(world.ground.sites["tokyo-1"].plan.controllers["panel"])
    router = world.kyoten("ssh", "tokyo-1", "hostname -I", check=False)
    host.processes["sshd"].stop()
    devices.start_ssh(world, "tokyo-1", "panel", pin=False)
    impostor = world.kyoten(*login, "true", check=False)
    return [
        Line(
            "SSH to the router and into a device on its LAN",
            ended.status == 0 and inside in ended.stdout and router.status == 0,
            f"the device says: {' '.join(ended.stdout.split()[1:4])}; {took:.1f} s "
            f"{ended.stderr.strip()}{router.stderr.strip()}",
        ),
        Line(
            "a device with another host key is refused",
            impostor.status == 3 and not impostor.stdout,
            f"exit status {impostor.status}: {_first_sentence(impostor.stderr)}",
        ),
    ]


def mobile_line(world: World) -> list[Line]:
    """On the mobile line remote work is refused, with the reason, until the site is in commissioning."""
    attempts = {"ssh": ("ssh", "kobe-1", "true"), "logs": ("logs", "kobe-1")}
    attempts["set"] = ("site", "set", "kobe-1", "log.level=debug")
    with ThreadPoolExecutor() as pool:
        ends = pool.map(lambda words: world.kyoten(*words, check=False), attempts.values())
        refused = dict(zip(attempts, ends, strict=True))
    world.kyoten("site", "phase", "kobe-1", "commissioning")
    permitted = world.kyoten("ssh", "kobe-1", "true", check=False)
    world.kyoten("site", "phase", "kobe-1", "operation")
    all_refused = all(ended.status == 3 for ended in refused.values())
    return [
        Line(
            "remote work over the mobile line is refused",
            all_refused and permitted.status == 0,
            f"ssh, logs, set: {_first_sentence(refused['ssh'].stderr)} "
            f"In phase commissioning ssh ends with {permitted.status}",
        )
    ]


def status_in_words(world: World) -> list[Line]:
    """The fleet's status names every site with its tunnel and uplink."""
    shown = {entry["site"]: entry for entry in world.kyoten_json("status")["sites"]}
    uplinks = {name: shown.get(name, {}).get("uplink") for name in world.ground.sites}
    wanted = {name: "mobile" if site.plan.uplink == "mobile" else "wired" for name, site in world.ground.sites.items()}
    measured = ", ".join(f"{name} {uplink}" for name, uplink in uplinks.items())
    return [Line("the status names every site and its uplink", uplinks == wanted, measured)]


def _first_sentence(text: str) -> str:
    return text.strip().split(". ")[0].removeprefix("error: ").rstrip(".") + "."
