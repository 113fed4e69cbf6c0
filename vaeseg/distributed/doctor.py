"""Everything that a night needs, looked at: on this machine, and on every node of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from vaeseg.checks import Check, looked, warned
from vaeseg.db.health import LedgerFacts, database_checks, ledger_facts
from vaeseg.db.session import sqlite_url, unmigrated_database
from vaeseg.distributed.machine_checks import MachineFacts, machine_facts
from vaeseg.io.health import key_check, store_checks
from vaeseg.io.store import Store

Tell = Callable[[str], None]
"""Is given a line."""


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


def examine_here(needs: Needs) -> Findings:
    """Check this machine; changes nothing but for a file that is written into the store and removed."""
    findings = Findings()
    findings.checks += ledger_findings(needs, findings)
    findings.checks += looked("store", lambda: store_checks(needs.store.root), "is its file server there?")
    findings.checks += looked("subject_key", lambda: [_key(needs, findings)], "is its file server there?")
    findings.machine = machine_facts(needs.store.models, needs.model, findings.ledger.archives)
    findings.checks += findings.machine.checks
    return findings


def ledger_findings(needs: Needs, findings: Findings) -> list[Check]:
    """Check the database, and keep what it says in the findings."""

    def look() -> Iterator[Check]:
        path = needs.store.database_path
        if needs.database_url is None and not path.exists():
            found = f"none yet at {path}"
            yield warned("database", found, "'archive add' or 'submit' makes it; or is --store or --db wrong?")
            return
        url = needs.database_url or sqlite_url(path)
        with closing(unmigrated_database(url, create=False)) as database:
            checks = list(database_checks(database))
            yield from checks
            if any(check.name == "runs" for check in checks):  # it is of this version
                findings.ledger = ledger_facts(database)

    return looked("database", look, "start the server, or correct --db, $VAESEG_DB or the file $VAESEG_DB_FILE")


def _key(needs: Needs, findings: Findings) -> Check:
    return key_check(needs.store.root, findings.ledger.holds_subjects)


def examine(needs: Needs, address: str | None) -> list[Check]:
    """Check this machine, and the cluster of an address."""
    return examine_here(needs).checks
