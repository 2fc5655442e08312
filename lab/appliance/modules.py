"""Modules on the booted image: published, noticed, judged, installed, used and reported, without anyone's action there.

Four are published before the router starts for the first time: a plugin, what it trusts, a table for modems, and a
table that is for another board. `update` takes these steps around an update: modules outlive it.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudside.registry import reports
from cloudside.registry.callers import OPERATOR
from lab.appliance import holders, image
from lab.appliance.proof import SITE, Scene
from lab.network import LabError, wait_until

#: A heartbeat, a look, a minute in which they prove themselves; emulated, on a machine that does other things too.
TAKEN_S, GONE_S = 600.0, 300.0

_PLUGIN = b"""import json, os, ssl
try:
    state = os.listdir("/var/lib/kyoten-agent")
except PermissionError:
    state = "closed"
trusted = len(ssl.create_default_context().get_ca_certs())
print(json.dumps({"text": f"{os.environ['KYOTEN_SITE']}: user {os.getuid()}, state {state}, trusts {trusted}"}))
"""
#: What it says where it runs as it shall.
_SAYS = f"{SITE}: user 65534, state closed, trusts 1"
_TABLE = b'{"modems": {"EC25": {"init": ["AT+QCFG=\\"nwscanmode\\",0"]}}}'


@dataclass(frozen=True, slots=True)
class Made:
    """A module, the board it is for (empty: all), and what becomes of it."""

    kind: str
    content: Callable[[], bytes]
    board: str
    stage: str


MODULES: Mapping[str, Made] = {
    "weather": Made("plugin", lambda: _PLUGIN, "", "active"),
    "authorities": Made("ca-bundle", lambda: image.trust().authority.read_bytes(), "", "active"),
    "quectel": Made("modem-table", lambda: _TABLE, image.HARDWARE, "active"),
    "huawei": Made("modem-table", lambda: _TABLE, "other-board", "refused"),
}
_VERSION = "1.0"


def publish(scene: Scene) -> None:
    """Make them with the command line, and let the holders sign."""
    place = scene.disk.parent / "modules"
    holders.publish(scene.world.config)
    for name, made in MODULES.items():
        place.mkdir(exist_ok=True)
        content = place / name
        content.write_bytes(made.content())
        line = ["firmware", "module", str(content), "--name", name, "--version", _VERSION, "--counter", "1"]
        board = ["--board", made.board] if made.board else []
        scene.world.kyoten(*line, "--kind", made.kind, *board, "--output", str(_directory(place, name)))
    holders.publish(scene.world.config, *(_directory(place, name) for name in MODULES))
    scene.say(f"modules are published: {', '.join(MODULES)}")


def arrive(scene: Scene) -> str:
    """The router has those that are for it, and says why not the other one; the plugin runs with few rights. What its
    file is known by."""
    wanted = {name: made.stage for name, made in MODULES.items()}
    begun = time.monotonic()
    _wait(scene, wanted, TAKEN_S)
    (refused,) = [one for one in _reported(scene) if one["stage"] == "refused"]
    if (refused["problem"] or {}).get("key") != "agent.module-wrong-hardware":
        raise LabError(f"the module for another board was refused with {refused['problem']}")
    wait_until(f"the plugin says {_SAYS!r}", lambda: _SAYS in _said(scene), timeout_s=TAKEN_S, every_s=1)
    scene.figures["modules_taken"] = sum(made.stage == "active" for made in MODULES.values())
    scene.say(f"modules: {wanted}, {time.monotonic() - begun:.1f} s after it served; the plugin: {_SAYS}")
    return _file(scene)


def stay(scene: Scene, arrived: str) -> None:
    """In use after an update, too, and not fetched again. One that is taken back goes by itself, and what it said with
    it."""
    _wait(scene, {name: made.stage for name, made in MODULES.items()}, TAKEN_S)
    if (found := _file(scene)) != arrived:
        raise LabError(f"the plugin's file is another one after the update: {found}, not {arrived}")
    wait_until("the plugin says so again", lambda: _SAYS in _said(scene), timeout_s=TAKEN_S, every_s=1)
    path = f"modules/weather/{_VERSION}.json"
    scene.world.kyoten("firmware", "yank", path, "--reason", "The lab has seen it.", "--yes")
    begun = time.monotonic()
    holders.publish(scene.world.config)
    _wait(scene, {"weather": "removed"}, GONE_S)
    wait_until("the plugin is silent", lambda: _SAYS not in _said(scene), timeout_s=GONE_S, every_s=1)
    scene.figures["module_withdrawn_s"] = round(time.monotonic() - begun, 1)
    scene.say(f"modules outlived the update; one that was taken back is gone after {time.monotonic() - begun:.1f} s")


def _file(scene: Scene) -> str:
    """Inode and time of the plugin's file."""
    path = "/var/lib/kyoten-agent/modules/weather/current/content"
    return scene.world.kyoten("ssh", SITE, f"stat -L -c '%i %y' {path}", timeout_s=300).stdout.strip()


def _directory(place: Path, name: str) -> Path:
    return place / f"{name}.module"


def _reported(scene: Scene) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = scene.world.kyoten_json("firmware", "modules", "--sites")["modules"]
    return [one for one in found if one["site"] == SITE]


def _wait(scene: Scene, wanted: Mapping[str, str], timeout_s: float) -> None:
    begun = time.monotonic()
    last: dict[str, str] = {}
    while not wanted.items() <= last.items():
        now = {one["module"]: one["stage"] for one in _reported(scene)}
        if now != last:
            scene.say(f"modules: {now}")
            last = now
        if not scene.machine.running or time.monotonic() - begun > timeout_s:
            sys.stderr.write(f"{scene.machine.console()[-3000:]}\n")
            raise LabError(f"the router's modules are {_reported(scene)}, not {dict(wanted)}")
        time.sleep(1)


def _said(scene: Scene) -> list[str]:
    """What plugins say, as the last heartbeat has it."""
    with scene.world.reading() as session:
        heard = reports.heartbeat(session, OPERATOR, SITE)
    problems = [] if heard is None else heard.report.get("problems", [])
    return [str(one["params"].get("text")) for one in problems if one["key"] == "agent.plugin-says"]
