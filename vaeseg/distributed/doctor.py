"""Everything that a night needs, looked at: on this machine, and on every node of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from vaeseg.checks import Check, looked, warned
from vaeseg.db.health import LedgerFacts, database_checks, ledger_facts
from vaeseg.db.session import sqlite_url, unmigrated_database
from vaeseg.distributed.machine_checks import machine_facts
from vaeseg.distributed.needs import Findings, Needs
from vaeseg.io.health import key_check, store_checks

FILE_SERVER = "is its file server there?"


def examine(needs: Needs, address: str | None) -> list[Check]:
    """Check this machine, and the cluster of an address.

    Nothing is changed; files that are written into the store are removed.

    Raises:
        UsageError: the address is none.
    """
    here = examine_here(needs)
    if address is None:
        return here.checks
    # these load Ray, which nobody needs who has no cluster
    from vaeseg.distributed.cluster_doctor import examine_joined_cluster
    from vaeseg.distributed.doctor_job import examine_by_job
    from vaeseg.distributed.local import is_jobs_address

    examine_cluster = examine_by_job if is_jobs_address(address) else examine_joined_cluster
    return [*here.checks, *examine_cluster(needs, here, address)]


def examine_here(needs: Needs) -> Findings:
    """Check this machine."""
    checks, ledger = ledger_checks(needs)
    root = needs.store.root
    checks += looked("store", lambda: store_checks(root), FILE_SERVER)
    checks += looked("subject_key", lambda: [key_check(root, ledger.holds_subjects)], FILE_SERVER)
    machine = machine_facts(needs.store.models, needs.model, ledger.archives)
    return Findings(checks=[*checks, *machine.checks], ledger=ledger, machine=machine)


def ledger_checks(needs: Needs) -> tuple[list[Check], LedgerFacts]:
    """Check the database; with what it says of archives, where it can be asked."""
    facts = [LedgerFacts()]

    def look() -> Iterator[Check]:
        if needs.database_url is None and not needs.store.database_path.exists():
            found = f"none yet at {needs.store.database_path}"
            yield warned("database", found, "'archive add' or 'submit' makes it; or is --store or --db wrong?")
            return
        url = needs.database_url or sqlite_url(needs.store.database_path)
        with closing(unmigrated_database(url, create=False)) as database:
            checks = list(database_checks(database))
            yield from checks
            if any(check.name == "runs" for check in checks):  # its tables are those of this version
                facts.append(ledger_facts(database))

    wrong = "is it there? --db, $VAESEG_DB or the file $VAESEG_DB_FILE names it, as its owner or vaeseg_writer"
    return looked("database", look, wrong), facts[-1]
