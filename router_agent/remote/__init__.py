"""SSH to the router, inside the tunnel only.

configuration   sshd_config as text. Pure
keeper          runs one sshd, starts it again when it dies, adopts one that runs
"""
