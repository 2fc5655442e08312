"""A whole world on one machine: network namespaces with real daemons.

    box      a private corner of the machine that vanishes with its first process
    network  hosts, links, processes inside a box
    topology, ground   the plan of a world, and its hosts, cables and addresses
    mail, mail_hosts   real Postfix: the SES stand-in and the mailbox host
    world    a running Kyoten on its ground
    probes, controller, devices, rogue   what hosts do: real packets, mail, SSH, a router in the wrong hands
    demo     the main job, shown
    queue_view  a read-only look at an embedded mail queue's file
    bad_line, payload_server, payload_fetcher   firmware over a line that is slow, lossy and cut off
    mail_proof  the relay, cut at any moment: nothing is lost
    preflight, cli     is this machine able; kyoten-lab: demo, exec, list, down, box

It is a library: tests build smaller or larger worlds from it, several side by side in one box.
"""
