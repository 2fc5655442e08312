"""Firmware of routers: what a release is, who vouches for it, how it travels, how its image is built.

release, fields, listing   release and module documents, read strictly. Pure
trust, permit       what a device believes (TUF), and downgrades; clock, keymaterial: which time, which key. Pure
tuf_client, trusted_directory   python-tuf over our transport; its files, exchanged whole
repository/         the signing half: keys, roles, staging, publishing; compose: a release as a directory
chunks, delta, trees, zstd       what travels, and what a router makes of it; delta_make, similar: on the build machine
layout, bootstate, slotblock    the router's disk, its boot state, what GRUB reads of a slot. Pure
image/              builds the image
durable             files that survive a power cut

The verifying half is shared with the agent. Imports nothing of ours.
"""
