"""The router image in a virtual machine, plugged into the lab's world where a router's namespace would be.

    machine     the emulator: disk, watchdog, serial console, monitor; power on, power cut, orderly stop
    monitor     QEMU's machine protocol: what happens to the machine, and keys to press on it
    cabling     the machine's ports in the namespaces of a world; an address server on the internet's side
    image       the disk image of this checkout
    releases    releases in the form that operators build, the next one and bad ones (faults); who signs them (holders)
    bad_line    a whole update, nothing of it a delta, over a line that is slow, lossy and ever again another one
    modules     small signed parts between releases, taken, refused and taken back
    disks       a copy of the image with a ticket on it; its parts read back while the machine is off
    proof       what the image has to show in a world; `make demo-vm`

QEMU emulates in software (no KVM): the image is up in half a minute where a board needs ten seconds.
"""
