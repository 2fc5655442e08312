"""Addresses and routes of the router: its overlay address, what goes into the tunnel and what must not.

plan     what shall be there, as data. Pure
routing  holds the kernel against the plan
"""
