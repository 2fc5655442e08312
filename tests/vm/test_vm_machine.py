"""The virtual machine itself: a command in, its output and status out, the host untouched, nothing left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.network import wait_until
from lab.vm import machine
from lab.vm.cache import VmError

#: What the product needs sooner or later, each tried once; the kernel loads the module for it by itself.
PARTS = {
    "XFRM interface": "ip link add x0 type xfrm dev lo if_id 9",
    "ESP": "ip xfrm state add src 127.0.0.1 dst 127.0.0.1 proto esp spi 0x101 mode tunnel"
    " aead 'rfc4106(gcm(aes))' 0x0000000000000000000000000000000000000000 128",
    "veth": "ip link add v0 type veth peer name v1",
    "bridge": "ip link add b0 type bridge",
    "TUN": "ip tuntap add dev t0 mode tun",
    "netem": "tc qdisc add dev lo root netem delay 20ms",
    "hash:net,net": "ipset create s1 hash:net,net",
    "hash:net,port,net": "ipset create s2 hash:net,port,net",
    "hash:ip,mark": "ipset create s3 hash:ip,mark",
    "hash:net": "ipset create s4 hash:net timeout 0 counters",
    "xt_set": "iptables-legacy -A FORWARD -m set --match-set s4 src -j DROP",
    "xt_policy": "iptables-legacy -A FORWARD -m policy --dir in --pol ipsec --mode tunnel -j ACCEPT",
    "xt_mark": "iptables-legacy -t mangle -A FORWARD -m mark --mark 1 -j MARK --set-mark 2",
    "xt_connmark": "iptables-legacy -t mangle -A FORWARD -j CONNMARK --save-mark",
    "xt_conntrack, xt_comment": "iptables-legacy -A FORWARD -m conntrack --ctstate NEW -m comment --comment x -j DROP",
    "NETMAP": "iptables-legacy -t nat -A PREROUTING -d 10.0.0.0/24 -j NETMAP --to 10.1.0.0/24",
    "PPP": "modprobe ppp_async && test -c /dev/ppp",
    "L2TP": "modprobe l2tp_ppp && ip l2tp add tunnel tunnel_id 1 peer_tunnel_id 1 encap udp local 127.0.0.1"
    " remote 127.0.0.1 udp_sport 1701 udp_dport 1702",
    "IPVS": "modprobe ip_vs_rr && test -e /proc/net/ip_vs",
    "nftables": "modprobe nf_tables nft_ct",
    "dm-verity": "modprobe dm_verity",
    "watchdog": "modprobe i6300esb",
}


def test_a_command_runs_here_as_root_and_only_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host\n")
    tried = "\n".join(f"( {trial} ) || echo 'MISSING {name}'" for name, trial in PARTS.items())
    script = f"""
cut -d' ' -f1 /proc/uptime
pwd; id -u; cat file
echo machine > file; cat file
touch /var/x /run/x /tmp/x /etc/x {sys.prefix}/../x
{tried}
echo oops >&2
exit 7
"""
    ended = machine.run(["sh", "-c", script], directory=tmp_path, timeout_s=180)
    uptime, *lines = ended.stdout.decode().splitlines()
    assert lines == [str(tmp_path), "0", "host", "machine"], ended
    assert (ended.status, ended.stderr, ended.timed_out) == (7, b"oops\n", False)
    assert (tmp_path / "file").read_text() == "host\n"
    assert not Path("/etc/x").exists()
    assert float(uptime) < 60  # about 7 on two idle cores


def test_a_command_that_takes_too_long_is_cut_short() -> None:
    ended = machine.run(["sh", "-c", "echo begun; sleep 600"], timeout_s=2)
    assert (ended.status, ended.timed_out, ended.stdout) == (machine.TIMED_OUT, True, b"begun\n")
    assert _children(os.getpid()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_whoever_started_it_takes_it_along(number: signal.Signals) -> None:
    starter = subprocess.Popen(
        [str(Path(sys.executable).parent / "kyoten-lab"), "vm", "--", "sleep", "600"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until("the emulator", lambda: _emulator(starter.pid) is not None, timeout_s=60)
        emulator = _emulator(starter.pid)
        starter.send_signal(number)
        starter.wait(10)
        wait_until("its end", lambda: not Path(f"/proc/{emulator}").exists(), timeout_s=10)
    finally:
        starter.kill()
        starter.wait()


def test_a_machine_that_does_not_come_up_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MEMORY_MIB", 16)
    with pytest.raises(VmError, match="ended before the command did"):
        machine.run(["true"], timeout_s=60)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _emulator(starter: int) -> int | None:
    for pid in _children(starter):
        try:
            name = Path(f"/proc/{pid}/comm").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a helper of the start that ended meanwhile
        if name.startswith("qemu-system"):
            return pid
    return None
