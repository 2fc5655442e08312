"""The gateway's kernel: packet filter, sets, routes, connection tracking. Default deny, whatever fails.

skeleton     the chains that are always there: drop, established first, what the gateway itself accepts. Pure
snapshot     iptables-save and ipset-save text as comparable data, and what differs. Pure
versions     what is in force, and the smallest change from it to another rule set. Pure
enforcement  does the change; drift found and repaired; adoption after a restart
admission    whose packets the gateway itself listens to; traffic: what counts what sites send and receive
accounting, memberships, refusals, flow_watch     what flows tell: statements used, groups, who was refused
flows        connection tracking: which established flows are no longer allowed
site_routes  routes follow tunnels; a site that is down is unreachable, never the default route
problems     what troubles the gateway, as data
"""
