"""The agent's log, and handing logs over.

writer    one line an event, on disk, turned over, never in the way when the disk is full
collect   the last lines of the agent's and charon's logs as one text
"""
