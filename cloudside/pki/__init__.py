"""The PKI: one root, an authority for the cloud and one a tenant, every certificate held to its addresses (RFC 3779).

address_blocks   the IP address blocks extension, to and from DER. Pure
authority        certificates and revocation lists from keys, times and serials. Pure
ssh_keys         Ed25519 key pairs in OpenSSH's form. Pure
bundle           what a router gets at enrolment, as one archive. Pure
store            private keys and published certificates in the state directory
issuing          signs with stored keys, records in the registry; makes tenants' authorities
initialise       root, cloud authority, gateway and endpoint certificates of a new installation
enrolment        a site's certificate, device id and host key, as one file
revocation       revoked sites, revocation lists and their renewal
published        what a gateway loads into charon and the agents' endpoint into TLS
"""
