"""The PKI: one root, an authority for the cloud and one a tenant, every certificate held to its addresses (RFC 3779).

address_blocks   the IP address blocks extension, to and from DER. Pure
authority        certificates and revocation lists from keys, times and serials. Pure
requests         what a router asks for and says of itself; ssh_keys: pairs in OpenSSH's form; bundle: an archive. Pure
store            keys and published certificates in the state directory; token_key: the root's key in a PKCS#11 token
issuing          signs with stored keys, records in the registry; offline: below a root on another machine
initialise       root, cloud authority, gateway and endpoint certificates, and their yearly renewal
enrolment        a site's certificate for its router's key; tickets: over the network, for a one-time token
renewal          the next certificate of a site; moving: the one for another prefix
revocation       revoked sites, released routers, revocation_lists and their renewal; status: OCSP
console_key      what logins at routers' serial consoles are answered with
published        what a gateway loads into charon and the agents' endpoint into TLS
"""
