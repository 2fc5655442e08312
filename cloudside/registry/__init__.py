"""The registry: the only truth about tenants, sites, devices, servers, policies and what routers reported.

tables, migrations     the schema and its history
database, sessions     reading, writing, recording; doorbell   tells daemons of a change, on every machine
upserts                adding to rows that may be there
auditing, chain, audit     each change in a log that nobody can change afterwards: written, held together, read
callers                on whose behalf a query runs: every query starts there and can only narrow
tenants, sites, devices, servers, policies, settings     what operators and customers state
platform_policies, grants     the file above all policies; reachability for a limited time
routers, reports, log_requests     what the fleet reports; labels, releases, rollouts     firmware and who gets it
credentials, mail_scopes, _patterns, _limits, _holds, _profiles, suppressions     who may send mail, how much, to whom
reports, history, overview, usage, counters      what gateways saw: tunnels, ups and downs, bytes and hours
certificates, tokens   what the PKI issued and revoked
names, addresses, allocation     pure: valid names, LAN to overlay, first free prefix
inventory, revisions   what the rules need to know, as rules.model; which tenants' changed since
"""
