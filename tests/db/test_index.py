from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import closing

import pytest
from file_counts import count_files
from ledger_factories import (
    ROOT,
    SUBJECT,
    Clock,
    begin_run,
    counted_statements,
    files_of,
    group_of,
    scan,
    segmented,
    series_row,
)
from sqlalchemy import func, select

from vaeseg.db.archives import ensure_archive, index_counts
from vaeseg.db.audit import rows_of_part
from vaeseg.db.index_files import changed_groups, damaged_directories, known_directories, known_files, record_files
from vaeseg.db.index_series import (
    JudgedSeries,
    forget_emptied_groups,
    readable_series,
    record_groups,
    studies_of_refused_series,
)
from vaeseg.db.parts import recorded_parts
from vaeseg.db.series_files import series_with_files
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.tables import InstanceTable, SeriesTable
from vaeseg.db.work import WorkItem, plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.errors import StoreError
from vaeseg.io.store import Store
from vaeseg.records import IndexedFile

HOSTILE = ["caf\u00e9.dcm", "a\udcff.dcm", "a\\udcff.dcm", "back\\slash\\u12", "two\\\\u0041", "\udc80\udc81\\"]


def volume(path: str, uid: str, fingerprint: str = "a" * 64) -> tuple[IndexedFile, JudgedSeries]:
    """A NIfTI file and its series."""
    file = IndexedFile(path=path, size=1, mtime_ns=1, group_key=uid, header="{}")
    row = series_row(uid, series_instance_uid=uid, study_instance_uid=f"{uid}.1", n_files=1, fingerprint=fingerprint)
    return file, JudgedSeries(row=row, paths=(path,))


def test_a_scan_is_stored_as_it_was_found(database: Database) -> None:
    """Every column of a readable series, and the verdict of a refused one."""
    refused = series_row(
        "1.2.4", reason="missing_slices", detail="gap", spacing_mm=None, n_slices=None, voxel_volume_mm3=None
    )
    archive_id = scan(database, [series_row("1.2.3", warnings=("gantry_tilt",)), refused])
    with database.read() as connection:
        one, two = connection.execute(select(SeriesTable.__table__).order_by(SeriesTable.series_key)).all()
    assert (one.verdict, one.reason, one.warnings, one.subject_key) == ("readable", None, ["gantry_tilt"], SUBJECT)
    assert (one.spacing_k_mm, one.spacing_j_mm, one.spacing_i_mm) == (2.0, 0.5, 0.75)
    assert (one.n_slices, one.rows, one.columns, one.voxel_volume_mm3) == (3, 4, 5, 0.75)
    assert (two.verdict, two.reason, two.spacing_k_mm, two.n_slices) == ("refused", "missing_slices", None, None)
    assert [name.series_key for name in readable_series(database, archive_id)] == ["1.2.3"]
    assert studies_of_refused_series(database, archive_id) == ["1.2"]


def test_found_is_in_series_and_refused_and_waiting(database: Database) -> None:
    """Down to the last file, those of a refused series by its reason."""
    rows = [series_row("1.2.3"), series_row("1.2.4"), series_row("1.2.5", reason="missing_slices")]
    archive_id = scan(database, rows, junk=4)
    counted = count_files(database, archive_id, 2)
    assert (counted.found, counted.in_series, counted.refused, counted.waiting) == (15, 6, 7, 2)
    assert counted.refused_by_reason == {"missing_slices": 3, "not_an_image": 4}
    arriving = count_files(database, archive_id, 2, {"1.2"})
    assert (arriving.in_series, arriving.refused, arriving.waiting) == (6, 4, 5)


def test_a_series_that_grows_is_updated_in_place(database: Database, clock: Clock) -> None:
    """The first sight of it stays."""
    archive_id = scan(database, [series_row("1.2.3"), series_row("1.2.4")])
    began = clock.moment
    clock.advance(3600)
    scan(database, [series_row("1.2.3", n_files=5, fingerprint="e" * 64)])
    with database.read() as connection:
        one, two = connection.execute(select(SeriesTable.__table__).order_by(SeriesTable.series_key)).all()
    assert (one.fingerprint, one.n_files) == ("e" * 64, 5)
    assert (one.first_seen_at, one.judged_at) == (began, clock.moment)
    assert two.judged_at == began
    assert count_files(database, archive_id).found == 8


def test_a_file_that_goes_is_missing_and_its_group_changes(database: Database, clock: Clock) -> None:
    """The row stays; found again, it is as before."""
    row = series_row("1.2.3")
    archive_id = scan(database, [row, series_row("1.2.4")])
    gone = files_of(row)[1].path
    record_files(database, archive_id, 1, vanished=[gone])
    assert known_files(database, archive_id, ["DOE^JANE/1.2.3"])["DOE^JANE/1.2.3"][gone].is_missing
    (changed,) = changed_groups(database, archive_id, 100).values()
    assert [file.path for file in changed] == [file.path for file in files_of(row) if file.path != gone]
    record_files(database, archive_id, 1, found_again=[gone])
    assert index_counts(database, archive_id).n_files_missing == 0
    assert changed_groups(database, archive_id, 100) == {group_of(row): files_of(row)}


def test_a_series_without_files_is_missing_and_comes_back(database: Database) -> None:
    """Its row stays, since findings refer to it; it is not planned."""
    row = series_row("1.2.3")
    archive_id = scan(database, [row])
    paths = [file.path for file in files_of(row)]
    record_files(database, archive_id, 1, vanished=paths)
    forget_emptied_groups(database, archive_id)
    assert readable_series(database, archive_id) == []
    assert changed_groups(database, archive_id, 100) == {}
    assert known_directories(database, archive_id) == []
    record_files(database, archive_id, 1, found_again=paths)
    record_groups(database, archive_id, {group_of(row): [JudgedSeries(row=row, paths=tuple(paths))]})
    assert [name.series_key for name in readable_series(database, archive_id)] == ["1.2.3"]


def test_a_split_series_is_two_rows(database: Database) -> None:
    """One UID, two volumes, two keys, each with its own files; judged as one again, the second is missing."""
    first, second = series_row("1.2.3"), series_row("1.2.3-2")
    archive_id = scan(database, [first, second])
    found = {series.series_key: series for series in series_with_files(database, archive_id, ["1.2.3-2", "1.2.3"])}
    assert list(found) == ["1.2.3-2", "1.2.3"]
    assert found["1.2.3-2"].paths == {file.path for file in files_of(second)}
    assert len(found["1.2.3"].group_files) == 6
    everything = tuple(file.path for row in (first, second) for file in files_of(row))
    record_groups(database, archive_id, {group_of(first): [JudgedSeries(row=first, paths=everything)]})
    assert [name.series_key for name in readable_series(database, archive_id)] == ["1.2.3"]
    assert len(series_with_files(database, archive_id, ["1.2.3"])[0].paths) == 6


def test_the_same_uid_in_another_study_is_another_series(database: Database) -> None:
    """It gets the next number, keeps it when it is judged again, and leaves the first alone."""
    first, other = series_row("1.2.3"), series_row("1.2.3", study_instance_uid="1.9")
    archive_id = scan(database, [first])
    for _ in range(2):
        scan(database, [other])
        keys = {name.study_instance_uid: name.series_key for name in readable_series(database, archive_id)}
        assert keys == {"1.2": "1.2.3", "1.9": "1.2.3-2"}


def test_a_volume_that_was_moved_keeps_its_identifiers(database: Database) -> None:
    """Same content under a new path, nothing at the old one: the same series. A copy is a series of its own."""
    archive_id = ensure_archive(database, ROOT)
    old, old_series = volume("a.nii", "2.5.1")
    record_files(database, archive_id, 1, [old])
    record_groups(database, archive_id, {"2.5.1": [old_series]})
    copy, copied_series = volume("copy.nii", "2.5.2")
    record_files(database, archive_id, 1, [copy])
    record_groups(database, archive_id, {"2.5.2": [copied_series]})
    assert [name.series_key for name in readable_series(database, archive_id)] == ["2.5.1", "2.5.2"]
    new, new_series = volume("b/new.nii", "2.5.3")
    record_files(database, archive_id, 1, [new], vanished=["a.nii"])
    forget_emptied_groups(database, archive_id)
    record_groups(database, archive_id, {"2.5.3": [new_series]})
    names = readable_series(database, archive_id)
    assert [(name.series_key, name.volume_path) for name in names] == [("2.5.1", "b/new.nii"), ("2.5.2", "copy.nii")]
    assert names[0].study_instance_uid == "2.5.1.1"


def test_two_copies_of_a_volume_that_is_gone_are_two_series(database: Database) -> None:
    """One of them goes on under its name."""
    archive_id = ensure_archive(database, ROOT)
    old, old_series = volume("a.nii", "2.5.1")
    record_files(database, archive_id, 1, [old])
    record_groups(database, archive_id, {"2.5.1": [old_series]})
    copies = [volume(f"{uid}.nii", uid) for uid in ("2.5.2", "2.5.3")]
    record_files(database, archive_id, 1, [file for file, _ in copies], vanished=["a.nii"])
    forget_emptied_groups(database, archive_id)
    record_groups(database, archive_id, {file.group_key or "": [series] for file, series in copies})
    assert [name.series_key for name in readable_series(database, archive_id)] == ["2.5.1", "2.5.3"]


def test_groups_beside_a_damaged_file_change_with_it(database: Database) -> None:
    """When it comes, and when it goes; groups elsewhere do not."""
    row = series_row("1.2.3")
    archive_id = scan(database, [row, series_row("1.2.4")])
    cut = IndexedFile(path="DOE^JANE/1.2.3/cut.dcm", size=1, mtime_ns=1, reason="unreadable_instance", is_damaged=True)
    record_files(database, archive_id, 1, [cut])
    assert list(changed_groups(database, archive_id, 100)) == [group_of(row)]
    assert damaged_directories(database, archive_id, ["DOE^JANE/1.2.3", "DOE^JANE/1.2.4"]) == {"DOE^JANE/1.2.3"}
    judged = {group_of(row): [JudgedSeries(row=row, paths=tuple(file.path for file in files_of(row)))]}
    record_groups(database, archive_id, judged)
    record_files(database, archive_id, 1, vanished=[cut.path])
    assert list(changed_groups(database, archive_id, 100)) == [group_of(row)]
    assert damaged_directories(database, archive_id, ["DOE^JANE/1.2.3"]) == set()


def test_groups_are_judged_a_part_at_a_time(database: Database) -> None:
    """As many as fit, and at least one."""
    archive_id = ensure_archive(database, ROOT)
    record_files(database, archive_id, 1, [file for n in range(3) for file in files_of(series_row(f"1.2.{n}"))])
    assert list(changed_groups(database, archive_id, 7)) == ["1.2/1.2.0", "1.2/1.2.1"]
    assert list(changed_groups(database, archive_id, 1)) == ["1.2/1.2.0"]


def test_the_number_of_statements_does_not_grow_with_the_series(database: Database) -> None:
    """An archive of a million files is not a million statements."""
    numbers = []
    scan(database, [])
    for start in (0, 100):
        with counted_statements(database) as statements:
            scan(database, [series_row(f"1.{start}.{n}") for n in range(1, 4 + start)])
        numbers.append(len(statements))
    assert numbers[0] == numbers[1]


def test_a_failed_group_changes_nothing(database: Database) -> None:
    """One transaction: an error at the last series leaves the index as it was."""
    archive_id = scan(database, [series_row("1.2.3")])
    good = JudgedSeries(row=series_row("1.2.5"), paths=())
    bad = JudgedSeries(row=series_row("1.2.6", n_files=None), paths=())
    with pytest.raises(StoreError):
        record_groups(database, archive_id, {"1.2/1.2.5": [good], "1.2/1.2.6": [bad]})
    assert [name.series_key for name in readable_series(database, archive_id)] == ["1.2.3"]


@pytest.mark.parametrize("values", [{}, {"group_key": "1/2", "reason": "not_an_image"}])
def test_a_file_is_in_a_group_or_refused_never_both_or_neither(database: Database, values: dict[str, str]) -> None:
    """A CHECK constraint says so to everybody."""
    archive_id = ensure_archive(database, ROOT)
    common = {"path": "x", "directory": "", "size": 1, "mtime_ns": 1, "is_damaged": False, "reader_version": 1}
    with pytest.raises(StoreError, match="in_group_or_refused"), database.write() as connection:
        connection.execute(InstanceTable.__table__.insert().values({"archive_id": archive_id} | common | values))


def test_any_file_name_is_stored_and_comes_back(database: Database) -> None:
    """Bytes that are no UTF-8, backslashes, and names that look like the escape of others."""
    archive_id = ensure_archive(database, ROOT)
    files = [IndexedFile(path=f"{path}/{path}", size=1, mtime_ns=1, reason="unreadable_file") for path in HOSTILE]
    record_files(database, archive_id, 1, files)
    assert set(known_files(database, archive_id, HOSTILE)) == set(HOSTILE)
    with database.read() as connection:
        paths = connection.scalars(select(InstanceTable.path).order_by(InstanceTable.id)).all()
        assert connection.scalar(select(func.count()).select_from(InstanceTable)) == len(HOSTILE)
    assert paths == [file.path for file in files]


def test_text_from_headers_cannot_break_the_database(database: Database) -> None:
    """NUL and undecodable bytes in a header value become question marks."""
    row = dataclasses.replace(series_row("1.2.3"), modality="C\0T\udcff")
    record_groups(database, ensure_archive(database, ROOT), {"1.2/1.2.3": [JudgedSeries(row=row, paths=())]})
    with database.read() as connection:
        assert connection.scalar(select(SeriesTable.modality)) == "C?T?"


@pytest.mark.parametrize("asked", ["groups", "series", "judged", "planned", "committed", "audited"])
def test_what_is_asked_of_some_series_looks_at_no_others(store: Store, asked: str) -> None:
    """SQLite has no statistics, and likes to go through all that an archive or a run has: for each batch, minutes of a
    night where there are millions of files."""
    with closing(open_database(sqlite_url(store.database_path))) as database:
        rows = [series_row("1.2.3"), series_row("1.2.4")]
        archive_id = scan(database, rows)
        run_id = begin_run(database, archive_id)
        done = plan_work(database, run_id, ["1.2.3"]).pending
        commit_group(run_id, [(item, segmented(item)) for item in done], store, database)
        record_files(database, archive_id, 1, files_of(rows[0]))
        ask: dict[str, Callable[[], object]] = {
            "groups": lambda: changed_groups(database, archive_id, 100),
            "series": lambda: series_with_files(database, archive_id, ["1.2.3"]),
            "judged": lambda: record_groups(
                database,
                archive_id,
                {group_of(rows[0]): [JudgedSeries(row=rows[0], paths=tuple(file.path for file in files_of(rows[0])))]},
            ),
            "planned": lambda: _planned(database, run_id),
            "committed": lambda: commit_group(
                run_id,
                [(one, segmented(one)) for one in plan_work(database, run_id, ["1.2.4"]).pending],
                store,
                database,
            ),
            "audited": lambda: [rows_of_part(database, part, ("id",)) for part, _ in recorded_parts(database, run_id)],
        }
        with counted_statements(database) as statements:
            ask[asked]()
        with database.read() as connection:
            steps = [
                str(step[3])
                for statement in statements
                if statement.startswith(("SELECT", "UPDATE", "DELETE")) and ONCE_A_RUN not in statement
                for step in connection.exec_driver_sql(
                    f"EXPLAIN QUERY PLAN {statement}", (None,) * statement.count("?")
                )
            ]
    of_large = [step for step in steps if step.split()[1] in ("instances", "series", "findings", "work_items")]
    assert of_large
    assert [step for step in of_large if "SCAN" in step or step.endswith(("(archive_id=?)", "(run_id=?)"))] == []


ONCE_A_RUN = "work_items.state = ?"
"""What failed for a reason that may be gone: one pass over the ledger."""


def _planned(database: Database, run_id: str) -> tuple[WorkItem, ...]:
    return plan_work(database, run_id, ["1.2.4"]).pending


def test_known_directories_are_told_without_reading_rows(store: Store) -> None:
    """Which carry the headers: gigabytes."""
    with closing(open_database(sqlite_url(store.database_path))) as database:
        archive_id = scan(database, [series_row("1.2.3")])
        with counted_statements(database) as statements:
            assert known_directories(database, archive_id) == ["DOE^JANE/1.2.3"]
        (asked,) = [statement for statement in statements if "DISTINCT" in statement]
        with database.read() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked}", (None,) * asked.count("?")).all()
    assert "COVERING INDEX ix_instances_archive_id_directory_missing_since" in str(plan)
