"""Firmware releases: metadata, signing, deltas, image build; the verifying half is shared with the agent.

Empty until the router image exists; the import direction already holds for it.
"""
