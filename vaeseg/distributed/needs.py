"""What a night is started with, and what was found of it on one machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from vaeseg.checks import Check
from vaeseg.db.health import LedgerFacts
from vaeseg.distributed.machine_checks import MachineFacts
from vaeseg.io.store import Store


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a night would be started with."""

    store: Store
    database_url: str | None
    """None for SQLite in the store."""
    model: str
    """Name, or path of its file."""


@dataclass(kw_only=True)
class Findings:
    """What was found here, and what is compared with a cluster."""

    checks: list[Check] = field(default_factory=list)
    ledger: LedgerFacts = field(default_factory=LedgerFacts)
    machine: MachineFacts = field(default_factory=MachineFacts)
