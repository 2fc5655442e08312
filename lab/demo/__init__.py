"""The main job, shown: each line of the result page is measured, not asserted.

report   what a step found; the page of results. Pure
matrix   every pair of hosts: the evaluator's answer beside real packets
steps    one function for each thing the demo shows
__main__ builds the world, runs the steps with progress, prints the page, exits 0 only if all held
"""
