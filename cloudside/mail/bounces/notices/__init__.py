"""Bounces, complaints and deliveries as Amazon SES tells them, through Amazon SNS over HTTPS.

envelope      what SNS posts: parsed, and its signature checked
certificates  the certificates that it signs with, fetched from its hosts only
ses           what SES says inside
endpoint      the HTTPS door; serving: on its socket
"""
