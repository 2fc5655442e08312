from collections.abc import Sequence

from linux.dataplane import Dataplane, arrived_match, child_options, detect, ensure_interface
from linux.errors import ProgramMissingError
from linux.runner import Finished


class _Machine:
    def __init__(self, *, takes_esp: bool, has_ip: bool = True, has_interfaces: bool = True) -> None:
        self.takes_esp, self.has_ip, self.has_interfaces = takes_esp, has_ip, has_interfaces
        self.sas = 0
        self.links: set[str] = set()

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout_s: float = 10.0, check: bool = True) -> Finished:
        if not self.has_ip:
            raise ProgramMissingError("ip")
        words = list(argv)
        if words[1:3] == ["xfrm", "state"]:
            if not self.takes_esp:
                return Finished(2, "", "Requested AEAD algorithm not found.")
            self.sas += 1 if words[3] == "add" else -1
        elif words[1:3] == ["link", "show"]:
            return Finished(0 if words[4] in self.links else 1, "", "")
        elif words[1:3] == ["link", "add"]:
            if not self.has_interfaces:
                return Finished(2, "", "Error: Unknown device type.")
            self.links.add(words[3])
        elif words[1:3] == ["link", "delete"]:
            self.links.remove(words[3])
        return Finished(0, "", "")


def test_kernel_that_takes_an_sa_does_esp_and_keeps_nothing_of_the_probe() -> None:
    machine = _Machine(takes_esp=True)
    assert detect(machine) is Dataplane.KERNEL
    assert machine.sas == 0
    assert machine.links == set()


def test_anything_else_means_user_space() -> None:
    assert detect(_Machine(takes_esp=False)) is Dataplane.USERLAND
    assert detect(_Machine(takes_esp=True, has_ip=False)) is Dataplane.USERLAND
    assert detect(_Machine(takes_esp=True, has_interfaces=False)) is Dataplane.USERLAND


def test_tunnel_interface_is_made_only_for_kernel_esp() -> None:
    machine = _Machine(takes_esp=True)
    ensure_interface(machine, Dataplane.USERLAND)
    assert machine.links == set()
    ensure_interface(machine, Dataplane.KERNEL)
    ensure_interface(machine, Dataplane.KERNEL)
    assert machine.links == {"ipsec0"}


def test_both_planes_have_the_same_interface_and_the_kernel_a_second_guard() -> None:
    assert arrived_match(Dataplane.USERLAND) == "-i ipsec0"
    assert arrived_match(Dataplane.KERNEL) == "-i ipsec0 -m policy --dir in --pol ipsec --mode tunnel"
    assert child_options(Dataplane.USERLAND) == {}
    assert set(child_options(Dataplane.KERNEL)) == {"if_id_in", "if_id_out"}
