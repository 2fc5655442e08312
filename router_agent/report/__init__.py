"""What the cloud hears of this router, and what it answers.

documents  heartbeat and answer, version 1 of the protocol, as data. Pure
load       how busy the router is, from /proc
schedule   when the next heartbeat is due. Pure
cloud      one exchange over mutual TLS with the device id
courier    the one thread that talks to the cloud, so that a dead network blocks nothing else
"""
