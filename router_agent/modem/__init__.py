"""The mobile line: a modem driven by AT commands, pppd over it, and the month's data.

answers   what a modem says, read (3GPP TS 27.007). Pure
lines     bytes from a modem -> echo, answers, result codes, unsolicited ones. Pure
machine   states, transitions, what is tried on a modem that hangs. Pure
budget    the month's bytes: counted over resets, kept with few writes
at        one command, one answer, over pyserial
pin       a PIN is tried once: remembered on disk
ppp       pppd: options, process, why it ended
modem     one modem from its device file to an address; what to do next, step by step
line      the thread that runs it; what the agent reads of it

Modems that are Ethernet devices of their own (QMI, MBIM, ECM) are not driven: give their interface as mobile uplink.
"""
