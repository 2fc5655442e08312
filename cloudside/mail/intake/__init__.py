"""Taking mail: who may send, what is refused at the door, 250 after the commit.

listener    aiosmtpd with its traps closed; sites by address, devices by user name
gate        limits on connections and on failed logins
directory   who may send: last good snapshot of the registry
"""
