"""The router's logs, and handing them over.

writer     the agent's own: one line an event, on disk, turned over, never in the way when the disk is full
keeping    charon's and pppd's, which write into memory, kept on the disk
kernel     the kernel's
units      which lines of which files are a unit's
pack       a range as one file; pulls: handing it over in pieces; tails: new lines as they come
redaction  what is secret is struck out
collect    the last lines of the agent's and charon's logs as one text, for clouds that ask so
"""
