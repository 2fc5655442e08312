"""To the smarthost.

delivery      the loop: claims, keeps connections busy, rests, learns
sending       one mail over one session
smarthost     sessions: TLS, login, those that are kept
conversation, replies   transactions on a connection, the bytes of it
settling      what came of it goes into the queue, with reports
outcome, pacer          what a reply means, how fast to send
supply, quota, ses, sigv4   the account's quota: watched, judged, asked for
signing       DKIM
assembly      built from the configuration
"""
