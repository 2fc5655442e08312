"""charon that hangs, events that come no more: noticed and mended, with the rules in force all the while."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gateway_world
from gateway_world import CLOSED, WEB, GatewayWorld, pause

from cloudside.config import Vpn
from lab.network import wait_until
from linux.charon_process import socket_path

#: The daemon, with its events from another socket than its commands.
_DETOURED = gateway_world._DAEMON.replace(
    "stop = threading.Event()",
    "gateway.Events = (lambda made: lambda _, wake: made(Path(sys.argv[2]), wake))(gateway.Events)\n"
    "stop = threading.Event()",
)


class Detour:
    """A socket in front of charon's. Connections that are deafened stay open and carry nothing more."""

    def __init__(self, path: Path, target: Path) -> None:
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._muted: list[threading.Event] = []
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        return len(self._muted)

    def deafen(self) -> None:
        for muted in self._muted:
            muted.set()

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX)
            try:
                upstream.connect(str(self._target))
            except OSError:
                client.close()
                upstream.close()
                continue
            self._sockets += [client, upstream]
            muted = threading.Event()
            self._muted.append(muted)
            for source, sink in ((client, upstream), (upstream, client)):
                threading.Thread(target=_pump, args=(source, sink, muted), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, muted: threading.Event) -> None:
    while True:
        try:
            data = source.recv(65536)
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            if not muted.is_set():
                sink.sendall(data)
        except OSError:
            return


@contextmanager
def _world(name: str, vpn: Vpn) -> Iterator[GatewayWorld]:
    world = gateway_world.build(name)
    try:
        world.config = world.config.model_copy(update={"vpn": vpn})
        yield world
    finally:
        world.close()


def test_charon_that_hangs_is_reported_ended_and_started_anew(record_property: Callable[[str, object], None]) -> None:
    with _world("gh", Vpn(hung_report_s=2, hung_restart_s=8)) as world:
        world.start()
        world.wait_ready()
        tokyo = world.routers["tokyo"]
        assert tokyo.connect()
        wait_until("the way", lambda: tokyo.ping(WEB), timeout_s=5)
        old = world.charon_pid()
        os.kill(old, signal.SIGSTOP)
        began = time.monotonic()
        wait_until("the report", lambda: "vpn.charon-hung" in world.problem_keys(), timeout_s=30)
        record_property("hung_to_reported_s", round(time.monotonic() - began, 1))
        assert world.charon_pid() == old
        # The packet filter does not wait for charon: its process has not been ended yet.
        before = world.flip(), time.monotonic()
        world.put_policy("acme", CLOSED)
        wait_until("the closed policy", lambda: world.flip() != before[0], timeout_s=3)
        record_property("policy_while_hung_s", round(time.monotonic() - before[1], 2))
        wait_until("another charon", lambda: world.charon_pid() != old, timeout_s=30)
        record_property("hung_to_restarted_s", round(time.monotonic() - began, 1))
        world.wait_ready()
        world.put_policy("acme", gateway_world.ACME)
        wait_until("the router to notice", lambda: not tokyo.sas() or tokyo.connect(wait_s=1), timeout_s=15)
        assert tokyo.connect()
        wait_until("the way back", lambda: tokyo.ping(WEB), timeout_s=5)
        wait_until("nothing to complain of", lambda: "vpn.charon-hung" not in world.problem_keys(), timeout_s=5)


def test_charon_that_only_pauses_keeps_its_tunnels() -> None:
    with _world("gq", Vpn(hung_report_s=2, hung_restart_s=30)) as world:
        world.start()
        world.wait_ready()
        assert world.routers["tokyo"].connect()
        before = world.charon_pid(), world.charon_sas()
        os.kill(before[0], signal.SIGSTOP)
        wait_until("the report", lambda: "vpn.charon-hung" in world.problem_keys(), timeout_s=30)
        os.kill(before[0], signal.SIGCONT)
        wait_until("its recovery", lambda: "vpn.charon-hung" not in world.problem_keys(), timeout_s=8)
        assert (world.charon_pid(), world.charon_sas()) == before


def test_events_that_come_no_more_are_noticed_and_opened_anew() -> None:
    with _world("gv", Vpn()) as world:
        detour = Detour(world.network.directory / "events", socket_path(world.config.runtime_directory / "charon"))
        file = world.network.directory / "config.json"
        file.write_text(world.config.model_dump_json())
        argv = [sys.executable, "-c", _DETOURED, str(file), str(world.network.directory / "events")]
        world.daemon = world.gateway.start("gateway", argv)
        log = world.daemon.log
        world.wait_ready()
        wait_until("the stream", lambda: detour.connections >= 1, timeout_s=5)
        pause(0.5)  # until charon has heard what is wanted of it
        assert world.routers["tokyo"].connect()
        wait_until("tokyo's event", lambda: "'tokyo " in log.read_text(), timeout_s=3)
        pause(2.5)  # what came up with the stream is not held against it
        connections = detour.connections
        detour.deafen()
        assert world.routers["osaka"].connect()
        # A listing finds the tunnel nevertheless.
        wait_until("osaka's route", lambda: "10.10.2.0/24" in world.routes(), timeout_s=3)
        assert "'osaka " not in log.read_text()
        wait_until("the new stream", lambda: detour.connections > connections, timeout_s=12)
        wait_until("the report", lambda: "vpn.events-lost" in world.problem_keys(), timeout_s=3)
        pause(1.0)
        assert world.routers["nagoya"].connect()
        wait_until("nagoya's event", lambda: "'nagoya " in log.read_text(), timeout_s=1)
        assert world.daemon.running
        assert log.read_text().count("events-renewed") == 1
        detour.close()


def test_a_tunnel_whose_ike_sa_is_rekeyed_is_no_lost_event() -> None:
    with _world("gk", Vpn()) as world:
        world.start()
        world.wait_ready()
        tokyo = world.routers["tokyo"]
        assert tokyo.connect()
        wait_until("the way", lambda: tokyo.ping(WEB), timeout_s=5)
        before = world.charon_sas()
        tokyo.charon.rekey(ike="gw")
        wait_until("another IKE_SA", lambda: world.charon_sas() not in ({}, before), timeout_s=5)
        pause(8.0)  # several listings, and longer than an event may be late
        assert "vpn.events-lost" not in world.problem_keys()
        assert world.daemon is not None
        assert "events-renewed" not in world.daemon.log.read_text()
        assert tokyo.ping(WEB)


def test_commands_that_end_charon_and_close_the_gateway() -> None:
    with _world("gc", Vpn()) as world:
        world.start()
        world.wait_ready()
        tokyo = world.routers["tokyo"]
        assert tokyo.connect()
        wait_until("the way", lambda: tokyo.ping(WEB), timeout_s=5)
        file = world.network.directory / "kyoten.toml"
        file.write_text(
            f'state_directory = "{world.config.state_directory}"\n'
            f'runtime_directory = "{world.config.runtime_directory}"\n'
            f'[gateway]\npublic_addresses = ["{gateway_world.PUBLIC}"]\n'
        )

        def kyoten(*words: str) -> int:
            argv = [sys.executable, "-m", "cloudside.cli.main", "--config", str(file), "gateway", *words]
            return world.gateway.run(argv, check=False).status

        assert kyoten("close") == 3  # the daemon would bring everything up again
        assert tokyo.ping(WEB)
        old = world.charon_pid()
        assert kyoten("restart-charon", "--yes") == 0
        wait_until("another charon", lambda: world.charon_pid() != old, timeout_s=10)
        world.wait_ready()
        # It was told that its tunnel ended, so it need not find out by itself.
        wait_until("the router to know", lambda: not tokyo.sas(), timeout_s=1)
        assert tokyo.connect()
        wait_until("the way back", lambda: tokyo.ping(WEB), timeout_s=5)
        assert world.daemon is not None
        world.daemon.stop()
        assert tokyo.ping(WEB)
        assert kyoten("close") == 130  # nobody there to say yes
        assert tokyo.ping(WEB)
        assert kyoten("close", "--yes") == 0
        assert world.charon_sas() == {}
        assert world.flip() == ""
        assert ":FORWARD DROP" in world.rules()
        assert kyoten("restart-charon", "--yes") == 3
