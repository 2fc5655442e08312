"""A whole world on one machine: network namespaces with real daemons.

    box      a private corner of the machine that vanishes with its first process
    network  hosts, links, processes inside a box
    mail     real Postfix: the SES stand-in and the mailbox host
    sites    Kyoten in it: a cloud, gateways, sites with routers and controllers
    probes   real packets between any two hosts
    demo     the main job, shown
    cli      kyoten-lab: demo, exec, list, down

It is a library: tests build smaller or larger worlds from it, several side by side in one box.
"""
