"""The ledger: tables, sessions, runs and findings."""
