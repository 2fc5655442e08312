"""Adapters to one Linux machine, used by the cloud side and by the router alike.

    runner      external programs: argv lists, time limits, no shell
    charon      strongSwan's IKE daemon: start, adopt, drive over vici
    dataplane   does the kernel do ESP, or charon in user space?
    netfilter   iptables-legacy and ipset: restore, save; readback: the same by python-iptables
    routes      addresses, interfaces, routes and rules over netlink
    files       durable writes
    locks       one process at a time

Imports nothing of ours. Foreign types (vici's bytes, netlink messages) end here: see docs/adr/0001.
"""
