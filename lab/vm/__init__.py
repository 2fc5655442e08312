"""One virtual machine with Debian's whole kernel, to run the lab in where the machine's own kernel lacks parts.

ESP, IPVS, PPP, L2TP, netem and every netfilter module are there. QEMU emulates in software: about ten times slower.

    cache       where prepared things lie, and the lock on them
    kernel      Debian's kernel: fetched, unpacked, never installed
    image       the virtual environment as a disk, the initial RAM disk
    machine     one machine: start it, relay its output, end it whatever happens
    init.sh     process 1 inside

The machine sees the host's files at the same paths, read-only; what it writes lands in its memory and ends with it.
"""
