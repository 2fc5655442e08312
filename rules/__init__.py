"""The reachability language: who may reach whom, decided once, in one place. Pure: no clock, no I/O.

model       inventory, packets, services, statements, the policy
problems    what is wrong with a policy, as data; PolicyError carries all of it; inventory: is the inventory sound?
document    YAML text -> a small tree with places; keys: what may stand where (schema); shapes: what files are made of
services    named and numeric services, arithmetic on them; validity: when a statement holds
parse       policy files -> Policy; tenant_file (groups), platform_file: text -> draft; draft: held against names
expect      does a policy keep what it promises? advice (overlap): what in it says nothing?
compile     Policy + Inventory (parts: by tenant; blocks: a tenant's policy) -> RuleSet, the decision as data
evaluate    may this packet pass? timed: grants that end
vectors     a domain as bit vectors; dispatch, match: prefix trees, set entries; render: RuleSet -> ipset, iptables text
intervals   a domain as ranges that do not overlap; render_nft: RuleSet -> nft scripts
explain     why can A (not) reach B? (covering, written); reach: what can A reach, who B?; granted: by timed grants
diff        what does a change open and close? (matrix: all pairs at once); gate: does it need an explicit yes?
"""
