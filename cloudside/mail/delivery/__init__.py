"""To the smarthost.

delivery  claims due recipients, one transaction each, records what came of it
outcome   what a reply means, when to try again; the pacer
"""
