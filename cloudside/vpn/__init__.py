"""The VPN server: charon kept as the registry says, its tunnels followed, the datapath told.

connections, suites     the wildcard connections, one a class, and charon's own settings. Pure
desired, parts          what the registry wants; what the keepers work with
rules_keeper            registry -> packet filter; looks whether it is still so
tunnels_keeper          charon, live tunnels, routes along them; tunnels: which must go. Pure
looks, troubles         looking again in short pieces; what is wrong, by part
charon_care             hung or deaf charon (health, contests); credentials: what it has to know
events                  charon's events, on a thread of their own
reports, ledger         what is told to the registry, on a thread of its own: states, history, problems
usage                   bytes and hours told, with a cursor
causes, witness         why tunnels fail, from charon's log
verdict, evidence, inspection, diagnosis, availability   answers about a site
reconciler, gateway     the keepers put together; the daemon `kyoten gateway`
"""
