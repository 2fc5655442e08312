"""What a refresh costs a router in memory, measured in a process of its own, with as many releases as there may be."""

import json
import subprocess
import sys
from pathlib import Path

from malicious_repository import HARDWARE, NOW, MaliciousRepository, a_release
from tuf.api.metadata import TargetFile

from firmware.release import custom, release_path
from firmware.tuf_client import TARGETS_MAX_BYTES

#: A router has 512 MiB and other things to do.
BOUND_MIB = 64

CHILD = """
import json, sys
from datetime import datetime
from pathlib import Path
from firmware.trust import Device, Trust

class Served:
    def open(self, kind, name):
        with (Path(sys.argv[1]) / kind / name).open("rb") as stream:
            while piece := stream.read(65536):
                yield piece

def peak():  # of this program alone: getrusage's is inherited from whoever forked
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024

before = peak()
root = (Path(sys.argv[1]) / "metadata" / "1.root.json").read_bytes()
now = datetime.fromisoformat(sys.argv[3])
trust = Trust(Path(sys.argv[2]), root=root, source=Served(), device=Device(sys.argv[4], 1), built_at=now)
trust.refresh(now)
count = len(trust.listing())
release = trust.release(f"releases/{sys.argv[4]}/2026.1.json")
print(json.dumps({"before": before, "after": peak(), "count": count, "counter": release.counter}))
"""


def test_a_refresh_of_the_longest_list_stays_small(tmp_path: Path) -> None:
    cloud = MaliciousRepository()
    path = cloud.add(a_release(1))
    entry = cloud.targets.targets[path]
    for counter in range(2, 2801):
        release = a_release(counter)
        more = TargetFile(entry.length, dict(entry.hashes), release_path(HARDWARE, release.version))
        more.unrecognized_fields["custom"] = custom(release)
        cloud.targets.targets[more.path] = more
    cloud.publish()
    size = len(cloud.files["metadata", "2.targets.json"])
    assert TARGETS_MAX_BYTES * 0.7 < size < TARGETS_MAX_BYTES
    for (kind, name), data in cloud.files.items():
        place = tmp_path / "served" / kind / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    argv = [sys.executable, "-c", CHILD, str(tmp_path / "served"), str(tmp_path / "trust"), NOW.isoformat(), HARDWARE]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["count"], told["counter"]) == (2800, 1)
    assert told["after"] < BOUND_MIB, told


def test_neither_the_agent_s_loop_nor_the_web_daemon_has_tuf_in_memory() -> None:
    for daemon in ("router_agent.daemon", "cloudside.fleet.web"):
        program = f"import sys, {daemon}; sys.exit('tuf' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0, daemon
