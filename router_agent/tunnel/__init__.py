"""The tunnel to the cloud: charon as initiator, driven over vici.

connection   the connection, credentials and strongswan.conf as data. Pure
machine      states of the tunnel, when to connect, give up, start over. Pure
probe        does the tunnel carry anything? One TCP connect at a time, never blocking
ike_ping     does IKE get through to a gateway, when a tunnel does not
causes       why charon got no tunnel, from its log
driver       holds charon against the machine, once a tick
"""
