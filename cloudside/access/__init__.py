"""Remote work on a site: who may start it now, and the work itself.

refusal     pure: may remote work on this site start now, and why not
target      SITE or SITE/DEVICE -> address, user, pinned host key
ssh         an SSH connection through the tunnel, its host key held to the pinned one
terminal    a person's terminal, or a command's input and output, on an SSH channel
console     the response for somebody who stands at a router's serial console
logs        ask a router for its log and wait for it
"""
