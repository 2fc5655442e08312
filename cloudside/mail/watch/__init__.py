"""The relay's eye on itself and its clients: once a second, what is wrong becomes an incident, and that a notice.

watch        the loop of steps, and how they are put together
tally        recipients by name, read once a pass
rates        limits against counts (pure);              limits       the step
baseline     what a site usually sends (pure);          anomaly      what is unlike it (pure)
habit        one site under watch (pure);               habits       the step: too much, or silence
inspection   the step for new domains, foreign sources, bounces
sightings    what the listeners see at the door;        door         the step
smarthost    the step for the way out and the account's quota;   parked   the step for mail that relays ended on
upkeep       suppressions into the registry, what is old forgotten; holds   what one that ended left behind
ledger       incidents as they stand;                   facts, remedies   what notices state and advise
notifier     incidents -> notices, on cloudside.alerts' ways
"""
