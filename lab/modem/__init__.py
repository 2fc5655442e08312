"""A modem that is a pseudo-terminal: answers AT commands as 27.007 has it, with faults from a script.

profile    what the modem is like, and its faults; read from a TOML file. Pure
dialogue   one command -> what the modem says. No terminal, no clock
emulator   the pseudo-terminal, echo, hangs, garbage, resets; a call
peer       the network's end of a call: a pppd

By hand: ``python -m lab.modem --script FILE --link /tmp/modem``, then any terminal program on /tmp/modem.
"""
