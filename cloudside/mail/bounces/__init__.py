"""Every failure finds its sender.

verp        signed return addresses: which message, which recipient; keys: the file with their keys
listener    the public door for bounces by mail; rates: how often one address may knock
notices/    bounces, complaints and deliveries as Amazon SES tells them through SNS
reading     what a bounce says: structured (RFC 3464, 5965, 8098) or prose
reasons     why, in the sender's terms: cause, phrases
recording   what a report changes in the queue, once, whichever way it came
dsn         writing our own reports
"""
