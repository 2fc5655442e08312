"""A version on its way to thousands of sites, and how it stops before it has harmed many.

Pure but for the last two:
model      rings, limits, targets, what was seen of a site; the plan as JSON
machine    states of a rollout and of a target, as tables
rings      which site is in which ring
halting    is the failure share too high, how many more may be exposed: exact binomial bounds
schedule   maintenance windows; whose turn it is, how many at once
judging    what a site's report means for its target
stepping   one step of a rollout: judge, halt, soak, go on, offer
plan       the dry run: who gets what, over which line, at what cost in bytes

keeper     the step against the registry (the worker's), incidents
offers     the offer in the answer to a heartbeat
"""
