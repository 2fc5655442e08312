"""What routers are told and what they say.

protocol         the documents, version 1; schema writes docs/schema/agent-protocol.json from them
settings_keys    the settings a router knows
identity         certificate and device id -> site; identity is never a header. strangers: who fails, for staff
tls              TLS, mutual but for enrolment, and the way from the TLS layer to the application
heartbeat        keep a heartbeat, decide what the cloud wants of the router
certifying       enrolment, renewal; attempts: how often an address may fail
requests         log pulls, commands, crash reports: what routers are asked for and hand over; request_paths: where
console          the service's console key to routers, logins at consoles from them
diagnostics      the commands that may be given. handover: bounds on a log
endpoint         the HTTP application; documents: its bodies and errors; web: its sockets, `kyoten web`
public           revocation lists and OCSP over plain HTTP
settings_change  a person's settings change, and waiting for what becomes of it; settings_diff: what it changes
payloads         firmware over HTTP, in ranges
rollouts/        a firmware version on its way to many sites, ring after ring
settings_steps   a change to many sites, what comes next. Pure; settings_changes: the worker takes the steps
"""
