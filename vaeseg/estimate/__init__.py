"""How long a night takes and what it costs, from what was measured; no SQL and no Ray in here."""
