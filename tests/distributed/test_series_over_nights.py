"""Series that are corrected, mixed up or cut short after they were segmented: what becomes of their findings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from factories import stored_values, write_series
from ledger_factories import begin_run, segmented
from sqlalchemy import select

from vaeseg.config import ReadingConfig
from vaeseg.db.archives import ensure_archive
from vaeseg.db.index_series import readable_series
from vaeseg.db.session import Database
from vaeseg.db.tables import FindingTable, SeriesTable
from vaeseg.db.views import LATEST_FINDINGS
from vaeseg.db.work import PlannedWork, plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.distributed.indexing import IndexJob, update_index
from vaeseg.io.store import Store
from vaeseg.records import Reason

UID = "1.2.826.0.1.77.1"
N_SLICES = 6


def index(database: Database, root: Path) -> None:
    archive_id = ensure_archive(database, str(root))
    job = IndexJob(
        archive_id=archive_id, root=root, reading=ReadingConfig(), exclude=(), secret=b"k" * 32, stable_seconds=0
    )
    update_index(database, job, lambda: None)


def plan(database: Database, root: Path) -> tuple[str, PlannedWork]:
    archive_id = ensure_archive(database, str(root))
    keys = [name.series_key for name in readable_series(database, archive_id)]
    run_id = begin_run(database, archive_id)
    return run_id, plan_work(database, run_id, keys)


def a_night(database: Database, store: Store, root: Path) -> int:
    """Scan and segment what is new; how many series that were."""
    index(database, root)
    run_id, work = plan(database, root)
    done = [(item, replace(segmented(item), n_slices=item.n_slices or 0)) for item in work.pending]
    commit_group(run_id, done, store, database)
    return len(done)


def findings(database: Database) -> list[tuple[str, str, str | None, int | None]]:
    """Series, study, patient and slices of the current ones."""
    columns = (
        FindingTable.series_instance_uid,
        FindingTable.study_instance_uid,
        FindingTable.subject_key,
        FindingTable.n_slices,
    )
    with database.read() as connection:
        found = connection.execute(
            select(*columns).where(FindingTable.superseded_at.is_(None)).order_by(FindingTable.id)
        )
        return [tuple(row) for row in found]


def series(database: Database) -> dict[str, tuple[str, str | None, bool]]:
    """Key to study, reason and whether it is gone."""
    columns = (SeriesTable.series_key, SeriesTable.study_instance_uid, SeriesTable.reason, SeriesTable.missing_since)
    with database.read() as connection:
        return {
            key: (study, reason, gone is not None) for key, study, reason, gone in connection.execute(select(*columns))
        }


def test_latest_findings_tell_what_is_gone_and_from_where(database: Database, store: Store, tmp_path: Path) -> None:
    """So that what lies in an archive now can be counted."""
    for name, uid in (("a", f"{UID}.1"), ("b", f"{UID}.2")):
        write_series(tmp_path / name, SeriesInstanceUID=uid)
    assert a_night(database, store, tmp_path) == 2
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    assert a_night(database, store, tmp_path) == 0
    columns = (LATEST_FINDINGS.c.series_instance_uid, LATEST_FINDINGS.c.archive, LATEST_FINDINGS.c.series_missing_since)
    with database.read() as connection:
        found = {uid: (archive, gone) for uid, archive, gone in connection.execute(select(*columns))}
    assert len({archive for archive, _ in found.values()}) == 1
    assert {uid: gone is not None for uid, (_, gone) in found.items()} == {f"{UID}.1": True, f"{UID}.2": False}


def test_a_study_that_was_corrected_takes_its_findings_along(database: Database, store: Store, tmp_path: Path) -> None:
    """In place, to an identifier as long: the same series, and nothing is done again or counted twice."""
    write_series(tmp_path / "a", SeriesInstanceUID=UID, StudyInstanceUID="1.2.3")
    assert a_night(database, store, tmp_path) == 1
    write_series(tmp_path / "a", SeriesInstanceUID=UID, StudyInstanceUID="1.2.4")
    assert a_night(database, store, tmp_path) == 0
    assert series(database) == {UID: ("1.2.4", None, False)}
    ((_, study, _, _),) = findings(database)
    assert study == "1.2.4"


def test_a_series_sent_again_under_a_merged_study_supersedes_itself(
    database: Database, store: Store, tmp_path: Path
) -> None:
    """To other places, with a longer identifier: done again, and the finding of before no longer counts."""
    write_series(tmp_path / "old", SeriesInstanceUID=UID, StudyInstanceUID="1.2.3")
    assert a_night(database, store, tmp_path) == 1
    for path in (tmp_path / "old").iterdir():
        path.unlink()
    write_series(tmp_path / "new", SeriesInstanceUID=UID, StudyInstanceUID="1.2.840.33.44")
    assert a_night(database, store, tmp_path) == 1
    assert [study for _, study, _, _ in findings(database)] == ["1.2.840.33.44"]


def test_two_patients_who_share_a_series_uid_stay_two(database: Database, store: Store, tmp_path: Path) -> None:
    """As bad anonymisers leave it: the one who is gone keeps the finding."""
    write_series(tmp_path / "a", SeriesInstanceUID=UID, StudyInstanceUID="1.2.3", PatientID="P1")
    assert a_night(database, store, tmp_path) == 1
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    other = stored_values() + np.int16(1)
    sops = {k: {"SOPInstanceUID": f"{UID}.9.{k}"} for k in range(N_SLICES)}
    write_series(tmp_path / "b", other, SeriesInstanceUID=UID, StudyInstanceUID="1.2.4", PatientID="P2", per_slice=sops)
    assert a_night(database, store, tmp_path) == 1
    assert [study for _, study, _, _ in findings(database)] == ["1.2.3", "1.2.4"]
    assert len({subject for _, _, subject, _ in findings(database)}) == 2


def test_a_stray_slice_of_somebody_else_changes_nothing_that_was_found(
    database: Database, store: Store, tmp_path: Path
) -> None:
    """Whatever its path: the series is refused, and its finding stays whose it was."""
    write_series(tmp_path / "b", SeriesInstanceUID=UID, PatientID="P1")
    assert a_night(database, store, tmp_path) == 1
    before = findings(database)
    first = stored_values()[:1]
    stray = {0: {"SOPInstanceUID": f"{UID}.9", "ImagePositionPatient": [0, 0, -2.5]}}
    write_series(tmp_path / "a", first, SeriesInstanceUID=UID, PatientID="P2", per_slice=stray)
    assert a_night(database, store, tmp_path) == 0
    (reason,) = {reason for _, reason, _ in series(database).values()}
    assert reason == Reason.SEVERAL_PATIENTS
    assert findings(database) == before


def test_a_series_that_only_lost_slices_keeps_its_finding(database: Database, store: Store, tmp_path: Path) -> None:
    """Housekeeping that is half done: what is left is not measured, until it is whole again or was changed."""
    paths = write_series(tmp_path / "a", SeriesInstanceUID=UID).paths
    assert a_night(database, store, tmp_path) == 1
    before = findings(database)
    for path in paths[-2:]:
        path.unlink()
    assert a_night(database, store, tmp_path) == 0
    assert series(database)[UID][1] == Reason.SLICES_VANISHED
    paths[-3].unlink()
    assert a_night(database, store, tmp_path) == 0
    assert findings(database) == before
    for path in paths[:-3]:
        path.touch()
    assert a_night(database, store, tmp_path) == 1
    assert [n_slices for _, _, _, n_slices in findings(database)] == [N_SLICES - 3]


def test_slices_that_come_back_make_it_whole_again(database: Database, store: Store, tmp_path: Path) -> None:
    """Unchanged: nothing is done again."""
    paths = write_series(tmp_path / "a", SeriesInstanceUID=UID).paths
    assert a_night(database, store, tmp_path) == 1
    away = paths[-1].rename(tmp_path.parent / "away.dcm")
    assert a_night(database, store, tmp_path) == 0
    away.rename(paths[-1])
    assert a_night(database, store, tmp_path) == 0
    assert series(database)[UID][1] is None


def test_a_series_that_was_reconstructed_anew_is_measured_anew(
    database: Database, store: Store, tmp_path: Path
) -> None:
    """Fewer slices, but others."""
    write_series(tmp_path / "a", SeriesInstanceUID=UID)
    assert a_night(database, store, tmp_path) == 1
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    sops = {k: {"SOPInstanceUID": f"{UID}.9.{k}"} for k in range(N_SLICES)}
    write_series(tmp_path / "b", stored_values()[:4], SeriesInstanceUID=UID, per_slice=sops)
    assert a_night(database, store, tmp_path) == 1
    assert [n_slices for _, _, _, n_slices in findings(database)] == [4]
