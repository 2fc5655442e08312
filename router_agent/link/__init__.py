"""The lines towards the Internet: which are there, which one is used, which one shall be.

uplinks   what a line is, which one carries the traffic now, metrics for the preferred one. Pure
"""
