"""The signing half: a TUF repository in a directory, offline keys with thresholds, online keys on a clock.

    keys       a holder's key in a file or wherever it signs; public halves as files that are carried
    roles      root and targets metadata: who may sign what, for how long; rotation; who is missing. Pure
    entries    releases, modules, what was taken back: the content of the targets metadata. Pure
    storage    the directory: what is served, what is being signed; durable, the timestamp last; served: light
    staging    what is up for signing: releases, yanks, rotations; one holder's signature after the other
    publish    what devices find, and its renewal on a clock

The verifying half is `firmware.trust`; decisions in docs/adr/0020-firmware-trust.md.
"""
