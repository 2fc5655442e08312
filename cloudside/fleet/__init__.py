"""What routers are told and what they say.

protocol         the documents, version 1; schema writes docs/schema/agent-protocol.json from them
settings_keys    the settings a router knows
identity         certificate and device id -> site; identity is never a header
tls              mutual TLS, and the way from the TLS layer to the application
heartbeat        keep a heartbeat, decide what the cloud wants of the router
handover         bounds on a log that a router hands over
endpoint         the HTTP application; web: its sockets, `kyoten web`
settings_change  a person's settings change, and waiting for what becomes of it
"""
