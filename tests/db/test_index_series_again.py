"""What is forgotten, and what is told anew, when a series is judged again."""

from __future__ import annotations

from ledger_factories import SUBJECT, begin_run, scan, segmented, series_row
from sqlalchemy import func, insert, select

from vaeseg.db.session import Database
from vaeseg.db.tables import ExclusionTable, FindingTable, SeriesTable
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.io.store import Store

KEYS = ["1.2.3", "1.2.4"]


def test_findings_name_the_patient_that_their_series_has_now(database: Database, store: Store) -> None:
    """Two patients were one: the trend of the one that is left has both; nobody else's findings change."""
    archive_id = scan(database, [series_row(key) for key in KEYS])
    run_id = begin_run(database, archive_id)
    items = plan_work(database, run_id, KEYS).pending
    assert commit_group(run_id, [(item, segmented(item)) for item in items], store, database) == 2
    scan(database, [series_row(KEYS[0], subject_key="7" * 16)])
    with database.read() as connection:
        found = connection.execute(select(FindingTable.series_instance_uid, FindingTable.subject_key)).all()
    assert dict(map(tuple, found)) == {KEYS[0]: "7" * 16, KEYS[1]: SUBJECT}


def test_rules_ask_again_about_a_series_that_is_judged_again(database: Database) -> None:
    """Its header may say something else, with the same fingerprint: what rules said of it is forgotten, and of others
    of its study, to which it may have been preferred.
    """
    elsewhere = series_row("1.2.5", study_instance_uid="1.3")
    archive_id = scan(database, [*(series_row(key) for key in KEYS), elsewhere])
    run_id = begin_run(database, archive_id)
    with database.write() as connection:
        for series_id in connection.scalars(select(SeriesTable.id)).all():
            values = {"series_id": series_id, "rules_digest": "r", "fingerprint": "f" * 64, "rule": "thorax"}
            values |= {"detail": "is PELVIS", "run_id": run_id, "created_at": database.now()}
            connection.execute(insert(ExclusionTable).values(values))
    scan(database, [series_row(KEYS[0])])
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(ExclusionTable)) == 1
