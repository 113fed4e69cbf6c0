from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ledger_factories import Clock, begin_run, failed, files_of, group_of, scan, segmented, series_row
from sqlalchemy import delete, select, text, update

from vaeseg.db.drivers import take_archive
from vaeseg.db.erasure import subject_rows
from vaeseg.db.events import account
from vaeseg.db.index_files import changed_groups, record_files
from vaeseg.db.parts import next_part_name
from vaeseg.db.runs import finish_run
from vaeseg.db.session import Database
from vaeseg.db.tables import Base, ChangedGroupTable, EventTable, FindingTable, InstanceTable, SeriesTable
from vaeseg.db.work import WorkItem, plan_work
from vaeseg.distributed import erase
from vaeseg.distributed.commit import commit_group
from vaeseg.distributed.erase import ERASE_STEPS, FilesLeft, erase_subject, find_traces, look_for_files
from vaeseg.distributed.verify import collect_garbage, verify
from vaeseg.errors import ArchiveBusyError, StoreError, UsageError
from vaeseg.io.store import Store
from vaeseg.records import IndexedFile, SegmentedSeries

SUBJECT, OTHER, CORRECTED = "5b1e" * 8, "07e2" * 8, "3c9a" * 8
OWN = ["1.2.911", "1.2.912"]
THEIRS = "1.2.700"


def with_mask(item: WorkItem, store: Store, model: str = "") -> SegmentedSeries:
    """An outcome whose mask and preview are there."""
    outcome = segmented(item)
    uri = f"masks/{item.study_instance_uid}/{item.series_key}/{model}/mask.nii.gz" if model else outcome.mask_uri
    path = store.root / uri
    path.parent.mkdir(parents=True)
    path.write_bytes(item.series_key.encode())
    path.with_name("preview.png").touch()
    return replace(outcome, mask_uri=uri, mask_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def archive_id(database: Database, store: Store) -> int:
    """Two series of a subject, one of them done again when it had grown, by two models, and one of somebody else.

    The first part has one series of each; the second has the subject's alone.
    """
    rows = [series_row(key, study_instance_uid="1.2.91", subject_key=SUBJECT) for key in OWN]
    archive_id = scan(database, [*rows, series_row(THEIRS, subject_key=OTHER)], junk=1)
    run_id = begin_run(database, archive_id)
    one, two, theirs = plan_work(database, run_id, [*OWN, THEIRS]).pending
    commit_group(run_id, [(one, with_mask(one, store)), (theirs, with_mask(theirs, store))], store, database)
    commit_group(run_id, [(two, failed(two))], store, database)
    finish_run(database, run_id, "finished")
    scan(database, [replace(rows[0], fingerprint="e" * 64)])
    again = begin_run(database, archive_id)
    (item,) = plan_work(database, again, OWN[:1]).pending
    commit_group(again, [(item, with_mask(item, store))], store, database)
    finish_run(database, again, "finished")
    other_model = begin_run(database, archive_id, model="other", digest="9" * 64)
    (item,) = plan_work(database, other_model, OWN[:1]).pending
    commit_group(other_model, [(item, with_mask(item, store, "other"))], store, database)
    finish_run(database, other_model, "finished")
    return archive_id


def kinds(store: Store, database: Database) -> list[str]:
    return [disagreement.kind for disagreement in verify(store, database)]


def content(store: Store, database: Database) -> str:
    """Every row of SQL and Parquet and every file name, as text."""
    with database.read() as connection:
        tables = [repr(connection.execute(table.select()).all()) for table in Base.metadata.sorted_tables]
    parts = [repr(pq.read_table(path, partitioning=None).to_pylist()) for path in store.parquet.rglob("*.parquet")]
    return "\n".join([*tables, *parts, *(str(path.relative_to(store.root)) for path in store.root.rglob("*"))])


def assert_erased(store: Store, database: Database) -> None:
    left = content(store, database)
    assert not [word for word in (SUBJECT, "1.2.91", *OWN) if word in left]
    assert list(store.staging.iterdir()) == []
    assert kinds(store, database) == []


def test_nothing_is_left_of_the_subject_and_all_of_the_others(
    database: Database, store: Store, archive_id: int
) -> None:
    """Rows, rows of Parquet, masks of every generation and model; numbers alone are told and recorded."""
    theirs = find_traces(store, database, OTHER)
    found = erase_subject(store, database, SUBJECT)
    assert found.rows.counts == {
        "series": 2,
        "instances": 6,
        "work_items": 4,
        "findings": 4,
        "lesions": 6,
        "exclusions": 0,
    }
    assert found.file_counts == {"parquet_rows": 4 + 6 + 9 + 3, "parquet_files": 13, "mask_files": 6}
    assert len(found.rows.files) == 6
    assert_erased(store, database)
    left = find_traces(store, database, OTHER)
    assert (left.rows, left.mask_directories, left.file_counts) == (
        theirs.rows,
        theirs.mask_directories,
        theirs.file_counts,
    )


def test_the_erasure_is_recorded_in_numbers(database: Database, store: Store, archive_id: int) -> None:
    """Who, when, how many rows and files; the run that did it has ended."""
    erase_subject(store, database, SUBJECT)
    with database.read() as connection:
        events = connection.execute(select(EventTable.__table__).order_by(EventTable.id)).all()[-4:]
    assert [(event.kind, event.n_rows, event.actor) for event in events] == [
        ("run_started", None, account()),
        ("subject_rows_erased", 20, account()),
        ("subject_erased", 2, account()),
        ("run_finished", None, None),
    ]
    assert events[1].detail == {
        "rows": {"instances": 6, "work_items": 4, "findings": 4, "lesions": 6, "exclusions": 0},
        "parquet_rows": 22,
        "parquet_files": 13,
        "mask_files": 6,
    }
    assert len({event.run_id for event in events}) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_sqlite_file_keeps_no_deleted_content(database: Database, store: Store, archive_id: int) -> None:
    """Neither the file nor its log; paths neither."""
    files = [store.root / f"results.db{suffix}" for suffix in ("", "-wal")]
    words = [SUBJECT.encode(), *(key.encode() for key in OWN)]

    def found() -> list[bytes]:
        held = b"".join(path.read_bytes() for path in files if path.exists())
        return [word for word in words if word in held]

    assert found() == words
    erase_subject(store, database, SUBJECT)
    database.close()
    assert found() == []


class KilledError(Exception):
    pass


def killed_after_each(steps: Sequence[str], store: Store, database: Database, clock: Clock) -> None:
    """Begin the erasure once for each step, and have it die there."""
    for last in steps:

        def die(step: str, last: str = last) -> None:
            if step == last:
                raise KilledError

        with pytest.raises(KilledError):
            erase_subject(store, database, SUBJECT, die)
        clock.advance(3600)


def test_killed_after_any_step_the_same_command_goes_on(
    database: Database, store: Store, archive_id: int, clock: Clock
) -> None:
    """Killed after each step in turn, it is begun again every time and ends with nothing left and no disagreement."""
    killed_after_each(ERASE_STEPS, store, database, clock)
    with pytest.raises(StoreError, match="no such subject"):
        erase_subject(store, database, SUBJECT)
    assert_erased(store, database)
    assert len(find_traces(store, database, OTHER).parts) == 4


def test_killed_while_parts_move_another_command_moves_the_rest(
    database: Database, store: Store, archive_id: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are gone from SQL; what lies in staging is moved by whatever recovers, and what SQL forgot is removed."""
    monkeypatch.setattr(erase, "recover_parts", lambda *_: None)
    monkeypatch.setattr(erase, "unknown_parts", lambda *_: [])
    erase_subject(store, database, SUBJECT)
    assert {"part_unpublished", "part_unknown"} == set(kinds(store, database))
    collect_garbage(store, database, dry_run=False)
    assert_erased(store, database)


def test_a_live_run_is_not_disturbed(database: Database, store: Store, archive_id: int) -> None:
    """Refused, naming the run, while one has an archive of the subject; nothing is gone."""
    live = begin_run(database, archive_id)
    take_archive(database, archive_id, live)
    with pytest.raises(ArchiveBusyError, match=live):
        erase_subject(store, database, SUBJECT)
    assert find_traces(store, database, SUBJECT).file_counts["parquet_rows"] == 22
    finish_run(database, live, "finished")
    erase_subject(store, database, SUBJECT)


def test_a_part_that_was_changed_is_refused_and_a_lost_one_is_not(
    database: Database, store: Store, archive_id: int
) -> None:
    """What a changed file holds cannot be known, and nothing is removed; one that is gone holds nothing."""
    paths = sorted(store.parquet.glob("slices/*/*.parquet"))
    paths[0].write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="is not the file that was recorded: restore it or delete it"):
        erase_subject(store, database, SUBJECT)
    assert find_traces_of_masks(store) == 4
    for path in paths:
        path.unlink()
    erase_subject(store, database, SUBJECT)
    assert kinds(store, database) == ["part_missing"], "of the part that has a series of somebody else"


def find_traces_of_masks(store: Store) -> int:
    return len(list(store.masks.rglob("mask.nii.gz")))


@pytest.mark.parametrize("key", ["", "a", "CT", "%", "[]", SUBJECT[:-1], SUBJECT.upper()])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_no_key_finds_nobody(database: Database, store: Store, key: str) -> None:
    """Refused before anything is looked for: it could be in every header."""
    with pytest.raises(UsageError, match="32 hexadecimal digits"):
        erase_subject(store, database, key)


def test_a_finding_under_a_key_that_was_corrected_goes_too(database: Database, store: Store, archive_id: int) -> None:
    """The series is somebody else's by now and stays; it is to be done again under that name."""
    with database.write() as connection:
        connection.execute(update(SeriesTable).where(SeriesTable.series_key == OWN[0]).values(subject_key=OTHER))
    erase_subject(store, database, SUBJECT)
    assert SUBJECT not in content(store, database)
    assert kinds(store, database) == []
    run_id = begin_run(database, archive_id)
    assert [item.series_key for item in plan_work(database, run_id, [OWN[0], THEIRS]).pending] == [OWN[0]]


def test_a_mask_that_another_archive_names_stays(database: Database, store: Store, archive_id: int) -> None:
    """A copy of the study under another patient id has its masks at the same place."""
    with database.write() as connection:
        mask = connection.scalar(select(FindingTable.mask_uri).where(FindingTable.series_instance_uid == OWN[0]))
        theirs = FindingTable.series_instance_uid == THEIRS
        connection.execute(update(FindingTable).where(theirs).values(mask_uri=mask, study_instance_uid="1.2.91"))
    erase_subject(store, database, SUBJECT)
    assert mask is not None
    assert (store.root / mask).exists()


def test_files_that_name_the_subject_go_whatever_series_they_are_in(
    database: Database, store: Store, archive_id: int
) -> None:
    """A slice among somebody else's, whose series is judged again; and junk beside its files that is gone by now."""
    stray = replace(files_of(series_row(THEIRS))[0], header=f'["{SUBJECT}"]')
    beside = f"{files_of(series_row(OWN[0]))[0].directory}/junk.dcm"
    junk = [IndexedFile(path=path, size=1, mtime_ns=1, reason="empty_file") for path in (beside, "elsewhere/junk.dcm")]
    record_files(database, archive_id, 1, [stray, *junk])
    record_files(database, archive_id, 1, vanished=[file.path for file in junk])
    with database.write() as connection:
        connection.execute(delete(ChangedGroupTable))
    assert erase_subject(store, database, SUBJECT).rows.counts["instances"] == 6 + 1 + 1
    assert SUBJECT not in content(store, database)
    (group,) = changed_groups(database, archive_id, 100)
    assert group == group_of(series_row(THEIRS, subject_key=OTHER))
    with database.read() as connection:
        kept = connection.scalars(select(InstanceTable.path).where(InstanceTable.reason.is_not(None))).all()
    assert sorted(kept) == ["elsewhere/junk.dcm", "junk/0.txt"]


def test_an_erasure_does_not_give_names_of_parts_again(database: Database, store: Store, archive_id: int) -> None:
    """A run that goes on after its first part was emptied: the next has a name that no other has."""
    run_id = begin_run(database, archive_id)
    rows = [series_row("1.2.5", subject_key=SUBJECT), series_row("1.2.6", subject_key=OTHER)]
    scan(database, rows)
    for item in plan_work(database, run_id, ["1.2.5", "1.2.6"]).pending:
        commit_group(run_id, [(item, failed(item))], store, database)
    finish_run(database, run_id, "interrupted")
    erase_subject(store, database, SUBJECT)
    assert next_part_name(database, run_id) == "part-00003.parquet"


def correct(database: Database, key: str, subject_key: str) -> None:
    """A scan finds one of the series under another patient id, corrected in place."""
    scan(database, [series_row(key, study_instance_uid="1.2.91", subject_key=subject_key, fingerprint="e" * 64)])


def rows_of(store: Store, series_instance_uid: str) -> list[str]:
    """Data sets of the rows of a series in Parquet."""
    paths = sorted(store.parquet.rglob("*.parquet"))
    rows = [(path.parts[-3], row) for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]
    return [dataset for dataset, row in rows if row["series_instance_uid"] == series_instance_uid]


def test_rows_go_whatever_key_they_have_in_parquet(database: Database, store: Store, archive_id: int) -> None:
    """Findings in SQL follow a corrected patient id, their rows in Parquet keep the key of their time."""
    correct(database, OWN[0], CORRECTED)
    assert rows_of(store, OWN[0]).count("findings") == 3
    erase_subject(store, database, CORRECTED)
    assert (rows_of(store, OWN[0]), rows_of(store, OWN[1])) == ([], ["findings"])
    assert kinds(store, database) == []


def test_rows_go_whatever_study_they_have_in_parquet(database: Database, store: Store, archive_id: int) -> None:
    """As of a study that was merged with another; nor are they taken for nobody's when somebody else is erased."""
    with database.write() as connection:
        for table in (SeriesTable, FindingTable):
            connection.execute(
                update(table).where(table.series_instance_uid == OWN[0]).values(study_instance_uid="1.9")
            )
    before = rows_of(store, OWN[0])
    erase_subject(store, database, OTHER)
    assert rows_of(store, OWN[0]) == before
    assert kinds(store, database) == []
    erase_subject(store, database, SUBJECT)
    assert rows_of(store, OWN[0]) == []
    assert kinds(store, database) == []


def test_findings_that_parquet_has_under_the_key_go(database: Database, store: Store, archive_id: int) -> None:
    """Their series is somebody else's by now, and stays, to be done again; in SQL nothing has the key any more."""
    for key in OWN:
        correct(database, key, OTHER)
    found = erase_subject(store, database, SUBJECT)
    assert (found.rows.counts["series"], found.rows.counts["findings"], found.rows.n_findings_of_others) == (0, 4, 4)
    assert SUBJECT not in content(store, database)
    assert (find_traces_of_masks(store), rows_of(store, OWN[0])) == (1, [])
    assert kinds(store, database) == []
    run_id = begin_run(database, archive_id)
    assert [item.series_key for item in plan_work(database, run_id, [*OWN, THEIRS]).pending] == OWN


def test_killed_without_a_series_the_same_command_goes_on(
    database: Database, store: Store, archive_id: int, clock: Clock
) -> None:
    """Once the findings are gone from SQL nothing there knows the key, and its file may still lie among the parts."""
    for key in OWN:
        correct(database, key, OTHER)
    killed_after_each(ERASE_STEPS[:-1], store, database, clock)
    erase_subject(store, database, SUBJECT)
    assert SUBJECT not in content(store, database)
    assert kinds(store, database) == []
    with pytest.raises(StoreError, match="no such subject"):
        erase_subject(store, database, SUBJECT)


def test_what_an_older_erasure_left_behind_goes(database: Database, store: Store, archive_id: int) -> None:
    """Older versions left rows that were under the key of their time; the same command again removes them, once."""
    correct(database, OWN[0], CORRECTED)
    path = next(path for path in store.parquet.rglob("findings/*/*.parquet") if pq.read_metadata(path).num_rows == 2)
    before = path.read_bytes()
    erase_subject(store, database, CORRECTED)
    path.write_bytes(before)
    digest = hashlib.sha256(before).hexdigest()
    with database.write() as connection:
        of_file = "UPDATE parts SET sha256 = :digest WHERE dataset = 'findings' AND name = :name AND run_id = :run"
        place = {"name": path.name, "run": path.parent.name.removeprefix("run_id=")}
        connection.execute(text(of_file), {"digest": digest} | place)
    assert kinds(store, database) == ["rows_differ"]
    again = erase_subject(store, database, CORRECTED)
    assert (again.n_left_behind, again.file_counts["parquet_rows"], sum(again.rows.counts.values())) == (1, 1, 0)
    assert (rows_of(store, OWN[0]), rows_of(store, THEIRS).count("findings")) == ([], 1)
    assert kinds(store, database) == []
    with pytest.raises(StoreError, match="no such subject"):
        erase_subject(store, database, CORRECTED)


@pytest.mark.parametrize("was_left_behind", [False, True])
@pytest.mark.parametrize("erased", [0, 1])
def test_of_volumes_that_failed_alike_the_right_row_goes(
    database: Database, store: Store, erased: int, was_left_behind: bool
) -> None:
    """One series UID, two patients, nothing that tells their rows apart but the key; also where SQL has one alone."""
    keys = [SUBJECT, OTHER]
    rows = [series_row(name, subject_key=key) for name, key in zip(("1.2.8", "1.2.8-2"), keys, strict=True)]
    archive_id = scan(database, rows)
    run_id = begin_run(database, archive_id)
    items = plan_work(database, run_id, ["1.2.8", "1.2.8-2"]).pending
    commit_group(run_id, [(item, failed(item)) for item in reversed(items)], store, database)
    finish_run(database, run_id, "finished")
    key = keys.pop(erased)
    if was_left_behind:
        with database.write() as connection:
            connection.execute(delete(FindingTable).where(FindingTable.subject_key == key))
    erase_subject(store, database, key)
    (path,) = store.parquet.rglob("findings/*/*.parquet")
    assert pq.read_table(path, partitioning=None).column("subject_key").to_pylist() == keys
    assert kinds(store, database) == []


def test_an_archive_of_rows_that_were_left_behind_is_taken(database: Database, store: Store, archive_id: int) -> None:
    """No finding tells of it any more: two erasures must not write the same file."""
    with database.write() as connection:
        of_series = select(FindingTable.id).where(FindingTable.series_instance_uid == OWN[1])
        connection.execute(delete(FindingTable).where(FindingTable.id.in_(of_series)))
    live = begin_run(database, archive_id)
    take_archive(database, archive_id, live)
    with pytest.raises(ArchiveBusyError, match=live):
        erase_subject(store, database, "0" * 32)


def test_files_are_looked_for_where_they_lay(database: Database, tmp_path: Path) -> None:
    """Those that are there now count; of an archive that cannot be listed, what its last scan found."""
    root = tmp_path / "archive"
    row = series_row(OWN[0], subject_key=SUBJECT)
    scan(database, [row], root=str(root))
    rows = subject_rows(database, SUBJECT)
    assert look_for_files(rows) == FilesLeft(n_there=0, n_unseen=3)
    for file in files_of(row)[:2]:
        (root / file.path).parent.mkdir(parents=True, exist_ok=True)
        (root / file.path).touch()
    assert look_for_files(rows) == FilesLeft(n_there=2, n_unseen=0)
