"""Desired settings: applied, tried, and kept only when the cloud can still be reached through the tunnel.

keys      the settings a router knows, with their limits. Pure
machine   stored -> trying -> confirmed | reverted. Pure
journal   the state on disk, written before anything is changed
trial     runs a trial: journal, act, verify, confirm or go back
"""
