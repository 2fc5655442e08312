"""Firmware updates as the router lives them: judged, fetched, installed beside, tried, kept or undone.

machine   stages and transitions; what a start finds and what follows from it. Pure
journal   the state on disk, written before each act; marks: what a trial leaves behind
judge     may this router take this release, now? window: when it may restart. Pure
health    is a trial good? returned: why one came back. Pure; essential: do the LAN's devices answer
driver    one step a tick; child, step: long work in processes of their own; install: RAUC
plan, client, fetch, payload_journal, assemble   what travels, resumed by content, put together
bootstore, slots, guard            boot state on its partition, the slots' contents, the watchdog of a trial
modules   small signed modules: noticed, judged, installed, taken back
"""
