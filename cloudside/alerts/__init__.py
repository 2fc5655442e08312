"""Conditions -> incidents -> notices, each condition told once.

    incidents   open and close in the registry; raising twice is one incident
    notices     the text of a notice
    silent      sites whose heartbeat stopped
    worker      the clock of `kyoten worker`

The relay sends: it looks for open incidents without a notice and queues one (cloudside/mail/watch). Whoever notices
a condition only opens an incident.
"""
