from __future__ import annotations

import pytest
from ledger_factories import ROOT, Clock, begin_run, scan, series_row
from sqlalchemy import select

from vaeseg.db.archives import (
    add_archive,
    archive_named,
    ensure_archive,
    find_archive,
    index_counts,
    list_archives,
    overlapping,
    remove_archive,
)
from vaeseg.db.drivers import take_archive
from vaeseg.db.runs import finish_run
from vaeseg.db.session import Database
from vaeseg.db.tables import ArchiveTable, EventTable
from vaeseg.errors import ArchiveBusyError, UsageError


def test_an_archive_is_one_row_for_one_root(database: Database) -> None:
    """Asked twice, the same id; the name made for it tells nothing of the path."""
    assert find_archive(database, ROOT) is None
    first = ensure_archive(database, ROOT)
    assert ensure_archive(database, ROOT) == first == find_archive(database, ROOT)
    assert ensure_archive(database, "/elsewhere") != first
    with database.read() as connection:
        names = connection.scalars(select(ArchiveTable.name).order_by(ArchiveTable.id)).all()
    assert "Doe" not in names[0]


def test_archives_that_overlap_are_found(database: Database) -> None:
    """One below the other, whichever was there first; a common beginning of the name is no overlap."""
    for name, root in (("all", "/ct"), ("inner", "/ct/a"), ("beside", "/ct-old"), ("gone", "/ct/b")):
        add_archive(database, name, root)
    remove_archive(database, "gone")
    assert overlapping(database, "/ct") == ["inner"]
    assert overlapping(database, "/ct/a/deep") == ["all", "inner"]
    assert overlapping(database, "/elsewhere") == []
    assert overlapping(database, "/") == ["all", "beside", "inner"]


def test_an_archive_has_a_name_and_a_root_of_its_own(database: Database) -> None:
    """Adding it again changes its labels; another root under its name, or another name for its root, is refused."""
    added = add_archive(database, "ward", "/ward")
    assert add_archive(database, "ward", "/ward", "/labels").label_root == "/labels"
    assert archive_named(database, "ward").id == added.id
    with pytest.raises(UsageError, match="archive ward with another root"):
        add_archive(database, "ward", "/other")
    with pytest.raises(UsageError, match="archive ward has this root"):
        add_archive(database, "second", "/ward")
    assert [archive.name for archive in list_archives(database)] == ["ward"]


def test_what_was_submitted_can_be_named(database: Database) -> None:
    """The index that a submission made belongs to the archive that has its root."""
    archive_id = ensure_archive(database, ROOT)
    assert add_archive(database, "ward", ROOT).id == archive_id


def test_a_removed_archive_leaves_its_name_and_comes_back_with_its_index(database: Database, clock: Clock) -> None:
    """Nothing is deleted; the name is free for another root."""
    archive_id = scan(database, [series_row("1.2.3")])
    add_archive(database, "ward", ROOT)
    remove_archive(database, "ward")
    with pytest.raises(UsageError, match="no archive ward"):
        archive_named(database, "ward")
    assert add_archive(database, "ward", "/other").id != archive_id
    assert add_archive(database, "ward-1", ROOT).id == archive_id
    assert index_counts(database, archive_id).n_readable == 1
    with database.read() as connection:
        kinds = connection.scalars(select(EventTable.kind).order_by(EventTable.id)).all()
    assert kinds == ["archive_added", "archive_removed", "archive_added", "archive_added"]


def test_an_archive_is_not_removed_under_a_run(database: Database) -> None:
    """It is said which; at its end the archive can go."""
    archive_id = add_archive(database, "ward", ROOT).id
    run_id = begin_run(database, archive_id)
    take_archive(database, archive_id, run_id)
    with pytest.raises(ArchiveBusyError, match=f"archive ward is in use by run {run_id}"):
        remove_archive(database, "ward")
    assert archive_named(database, "ward").id == archive_id
    finish_run(database, run_id, "finished")
    remove_archive(database, "ward")
    assert list_archives(database) == []


def test_what_the_index_holds(database: Database) -> None:
    """Files, and series by verdict."""
    rows = [series_row("1.2.3"), series_row("1.2.4", reason="missing_slices"), series_row("1.2.5")]
    counts = index_counts(database, scan(database, rows, junk=2))
    assert (counts.n_files, counts.n_files_missing, counts.n_readable) == (11, 0, 2)
    assert counts.refused_by_reason == {"missing_slices": 1}
