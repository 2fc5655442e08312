"""Diagnostic commands that staff may have run here: an allow-list with typed arguments, never a shell.

table    what may be run, and how arguments are read. Pure
ledger   which commands were begun and what came of them, on disk: none runs twice
bounded  one program, within a time and a size
reboot   the machine starts anew, by its init system
answers  what is answered from this process: tunnels, connections, the modem
orders   the lane: takes commands, runs them one after the other, hands results over
"""
