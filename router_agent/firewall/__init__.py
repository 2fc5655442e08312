"""The router's packet filter; the agent is its only writer.

ruleset   the whole filter as iptables-restore text. Pure
keeper    applies it, looks every few seconds, repairs
"""
