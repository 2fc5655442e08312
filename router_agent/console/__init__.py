"""The login at the serial console: only with a response that the cloud worked out for this site's key.

login     challenge, tries, waits: what the door says and when it opens. Pure
ledger    what outlives the power: wrong answers, logins that the cloud has not heard of yet
keys      the two keys of an enrolled router, read
report    what the agent tells the cloud of it, and the key it takes from there
terminal  the door itself: the tty, the shell, idle time. All I/O

Runs as a process of its own (`kyoten-agent console`), started by whoever presses Enter there; the agent reads the
ledger and reports. Why so: docs/adr/0025-console-login.md.
"""
