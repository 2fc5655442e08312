"""The reachability language: who may reach whom, decided once, in one place."""
