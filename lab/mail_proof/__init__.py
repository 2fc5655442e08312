"""Proof that the relay loses nothing: clients that write down each 250, a smarthost that writes down what it took.

traffic     mails whose every property follows from their number
ledger      where each 250 and each take is written down, outside of the relay's disk
smarthost   a scripted one: takes, refuses, stalls, drops, answers garbage
clients     devices that send as fast as they may
place       a relay's directory: configuration, registry, certificates
relay       the relay as a process that can be killed
verdict     what was promised against what is in the queue and in the smarthost's hands
standing    the queue read through the product's own operations
scene       all of these together, to which faults happen
crashes     the rig: kill, start again, at the end everything drains
inside      what runs in that machine
power       the machine's disk at many cuts (lab.power_cut), judged
"""
