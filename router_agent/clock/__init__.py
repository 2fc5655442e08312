"""The machine's clock, set by what the cloud says over TLS; nothing listens, nothing is asked of strangers.

judge     what may be believed of a time, and when the clock is set. Pure
known     what a router knows of the time without asking
keeper    the only one who sets it
asking    asks an endpoint whose certificate does not count by our clock

The device itself is linux.clock. Why so, and why no NTP: docs/adr/0026-time.md. (report.clock says how far it is off.)
"""
