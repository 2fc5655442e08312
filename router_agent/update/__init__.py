"""Firmware updates as the router lives them: judged, fetched, installed beside, tried, kept or undone.

machine, journal, book   stages and transitions, what a start makes of what it finds; the state on disk before each act
judge, window            may this router take this release, and now? Pure
health, returned         is a trial good; why did one come back. Pure
driver, preparation, trial, restart   one step a tick: what a start finds; up to a slot that is ready; a boot on trial
ports, appliance, essential   what the update needs of the machine; this machine; do the LAN's devices answer
work, child, step, leash, install   long work in processes of their own; RAUC on a bus of its own
client, plan, fetch, payload_journal, assemble   what travels, resumed by content, put together
bootstore, slots, direct, handler, guard, marks   boot state, the slots' contents, the watchdog of a trial, its marks
modules, module_store, module_kinds, module_step, module_keeper, module_use   small signed modules
words, settings          for a person at the router; the settings
"""
