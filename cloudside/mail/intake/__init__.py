"""Taking mail: who may send, what is refused at the door, 250 after the commit.

doors, listener        a listening address; one connection's commands (aiosmtpd with its traps closed)
wire, secured, mailing what a connection is made of: octets and patience, TLS, a mail's text; replies to faults
receiving, spool       the text of a mail as it comes; where it is meanwhile, within a budget of memory
handlers, submission   sites by address; devices by user name: who sends and what that one may
passwords, cram, tls   argon2id off the event loop; CRAM-MD5's sealed passwords; certificates, old versions
gate, urgency          limits on connections, mails a minute, failed logins; which mail goes first
directory, origins, places   the last good snapshot of the registry: whose an address or a user name is
"""
