"""The VPN server: charon kept as the registry says, its tunnels followed, the datapath told.

connections   the one wildcard connection, charon's own settings. Pure
desired       what the registry wants: inventory, rule set, credentials
tunnels       live tunnels from events and listings, and which of them must go. Pure
credentials   what charon has to know, loaded once and again when it changes
events        charon's events, on a thread of their own
causes        why tunnels fail, from charon's log. Pure; witness reads it
ledger        what a report changes in the registry: states, history, problems of sites
reports       what is told to the registry, on a thread of its own
reconciler    one pass: desired against actual
gateway       the daemon `kyoten gateway`
"""
