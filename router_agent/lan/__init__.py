"""The router's LAN: addresses handed out by DHCP, and which devices are there.

devices        what is known of the LAN's devices, put together for the report. Pure
configuration  dnsmasq's configuration and its lease file, as text. Pure
keeper         runs dnsmasq with it, on the LAN interface only
neighbours     the kernel's neighbour table
"""
