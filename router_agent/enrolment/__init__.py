"""How a router gets its certificate, and the next one. Private keys are made here and never leave the router.

request       keys and the certificate request (PKCS#10)
certificates  what a certificate must say to be taken. Pure
ticket        the file a person brings: who to ask, with which one-time token. Pure
waiting       what was made before anything was sent, kept until the cloud has answered
join          the first certificate, over the network
renew         when the next one is due, whether it has proven itself. Pure
renewal       fetches, installs, tries and keeps or undoes it
"""
