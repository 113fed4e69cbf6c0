"""Metrics of the database for Prometheus: a thread that looks at it, families of what it saw, and an HTTP server."""
