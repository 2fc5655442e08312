"""What ended and should not have leaves a report on disk, which travels to the cloud later.

reports  a report from an exception, a line of the kernel, the end of a log; and its id. Pure
store    the reports on disk: few, small, the same one counted and not written again
marks    that the agent runs: a mark left behind tells of a kill, a reset, a power cut
kernel   what is left of oopses and panics: pstore, the journal's last boot
watch    the hooks in this process, and the children it looks after
sender   the lane that hands reports over
"""
