"""The agent on a router: the tunnel, what it carries, and what the cloud hears of it. Never imports cloudside.

cli, daemon       the command; the composition root and its one-second loop
bundle, identity  the enrolment bundle, read strictly; what was installed from it
link/             the lines towards the Internet
tunnel/           charon as initiator: connection, states, probe
mapping/          addresses, routes, LAN <-> overlay
firewall/         the router's packet filter, whole, checked and repaired
settings/         desired settings: tried, confirmed or undone
report/           the heartbeat, over mutual TLS
logs/             the agent's log; handing logs over
remote/           sshd inside the tunnel
problems, backoff, messages
"""
