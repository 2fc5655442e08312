"""sshd's configuration on a router. Pure.

It listens on the overlay address only, which exists on no line towards the Internet; the packet filter lets nobody but
the cloud's service address in. Keys only. From the router on, only direct TCP to the LAN's devices is forwarded.
sshd_config(5).
"""

from pathlib import Path

from router_agent.bundle import Address


def sshd_config(address: Address, *, host_key: Path, authorized_keys: Path, pid_file: Path) -> str:
    """The text of sshd_config.

    StrictModes is off because it refuses keys below a sticky directory such as /var/tmp; the agent checks its
    directory itself (`keeper.unsafe`).
    """
    lines = (
        f"ListenAddress {address}",
        "Port 22",
        f"HostKey {host_key}",
        f"AuthorizedKeysFile {authorized_keys}",
        f"PidFile {pid_file}",
        "StrictModes no",
        "AllowUsers root",
        "PermitRootLogin prohibit-password",
        "AuthenticationMethods publickey",
        "PubkeyAuthentication yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "UsePAM no",
        "AllowTcpForwarding local",
        "AllowStreamLocalForwarding no",
        "AllowAgentForwarding no",
        "GatewayPorts no",
        "PermitTunnel no",
        "X11Forwarding no",
        "PermitUserEnvironment no",
        "PermitUserRC no",
        "UseDNS no",
        "PrintMotd no",
        "LoginGraceTime 30",
        "MaxAuthTries 3",
        # A visitor whose line breaks is gone after two minutes, not after two hours.
        "ClientAliveInterval 30",
        "ClientAliveCountMax 4",
        "Subsystem sftp internal-sftp",
    )
    return "".join(f"{line}\n" for line in lines)
