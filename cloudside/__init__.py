"""The cloud side of Kyoten.

    registry/   the truth: tenants, sites, devices, policies, what was told and heard
    pki/        authorities, certificates with address blocks, revocation, enrolment
    vpn/        strongSwan over vici          datapath/  the gateway's kernel
    mail/       the SMTP relay                fleet/     what routers are told and what they say
    access/     remote work on a site         alerts/    conditions, incidents, notifications
    cli/        the kyoten command            messages/  every text a person reads, English and Japanese
    config      one TOML file for all processes          errors     whose fault it was
    serve       all daemons on one machine               logging    how daemons log

Imports rules, firmware and linux; never router_agent.
"""
