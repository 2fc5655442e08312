"""The lines towards the Internet: which are there, which are alive, which one is used.

uplinks   what the kernel shows of each line; metrics for the one in use. Pure
health    is a line alive? What probes through it say, and how often they are sent. Pure
choice    which line is used, and when it changes. Pure
echo      probes through one line: ICMP echo, TCP connects where that is not answered
policy    a routing table for each line, so that answers leave where their questions came in
names     gateways' names to addresses, in a thread
keeper    holds all of it together, once a tick
"""
