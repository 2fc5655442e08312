"""Equipment on a LAN that offers SSH: a real sshd on a controller, its host key pinned in the registry or not."""

from pathlib import Path

from cloudside.pki.store import KeyStore
from cloudside.registry import devices
from cloudside.registry.callers import OPERATOR
from lab.network import Process, wait_until
from lab.world import World
from linux.runner import SubprocessRunner


def operator_key(world: World) -> Path:
    """The operators' SSH key, which routers accept and these devices do too."""
    return KeyStore(world.config.state_directory).operator_key_path()


def start_ssh(world: World, site: str, device: str, *, pin: bool = True) -> Process:
    """Run sshd on a controller with a fresh host key; the operator's key logs in as root.

    With ``pin`` the registry learns the host key, as an engineer would state it at commissioning; without, the device
    is an impostor to the cloud.
    """
    host = world.ground.sites[site].controllers[device]
    directory = host.directory
    runner = SubprocessRunner()
    key = directory / "ssh_host_ed25519_key"
    key.unlink(missing_ok=True)
    runner.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", device, "-f", str(key)], stdin="y\n")
    login = operator_key(world)
    authorized = directory / "authorized_keys"
    authorized.write_bytes(login.with_name(f"{login.name}.pub").read_bytes())
    configuration = directory / "sshd_config"
    configuration.write_text(
        f"HostKey {key}\nAuthorizedKeysFile {authorized}\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    process = host.start("sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", str(configuration)])
    wait_until(f"sshd on {host.name}", lambda: "listening" in process.tail(), timeout_s=10)
    if pin:
        public = key.with_suffix(".pub").read_text().strip()
        with world.writing() as session:
            devices.pin_host_key(session, OPERATOR, site_id=site, name=device, ssh_host_key=public)
    return process
