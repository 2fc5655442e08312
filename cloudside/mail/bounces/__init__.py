"""Every failure finds its sender.

verp      signed return addresses: which message, which recipient
dsn       writing non-delivery reports
reading   reading those of others
listener  the public door that they come in by
"""
