"""The `kyoten` command. Every module imports what is heavy inside its commands, so that --help answers at once.

main        the command tree, errors as people and programs see them
context     what a command works with: configuration, registry, on whose behalf
output      tables for people, JSON for programs
install, tenants, sites, devices, servers, smtp, incidents, grants     statements in the registry
policies, platform (plans: difference and gate), answers (authorship)     who may reach whom
overview    status, tunnels;  reports: a site's row in it. Pure
remote      ssh, logs
mail (mail_selection, _actions, _moves, _limits, _profile, suppressions)     the relay's queue; whose mail, how much
rollout (rollout_options, _status), site_labels     firmware to many sites
firmware (_build, _keys, _permits, _modules)     releases and modules, from a build to what routers have
daemons     gateway, relay, web, worker, serve
"""
