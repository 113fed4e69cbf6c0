from __future__ import annotations

import dataclasses

import pytest
from ledger_factories import ROOT, SUBJECT, Clock, files_of, scan, series_row
from sqlalchemy import func, select

from vaeseg.db.archives import FileRow, ensure_archive, find_archive, record_scan
from vaeseg.db.session import Database
from vaeseg.db.tables import ArchiveTable, InstanceTable, SeriesTable
from vaeseg.errors import StoreError


def test_an_archive_is_one_row_for_one_root(database: Database) -> None:
    """Asked twice, the same id; the name made for it tells nothing of the path."""
    assert find_archive(database, ROOT) is None
    first = ensure_archive(database, ROOT)
    assert ensure_archive(database, ROOT, "another") == first == find_archive(database, ROOT)
    assert ensure_archive(database, "/elsewhere", "night") != first
    with database.read() as connection:
        names = connection.scalars(select(ArchiveTable.name).order_by(ArchiveTable.id)).all()
    assert names[1] == "night"
    assert "Doe" not in names[0]


def test_a_scan_is_stored_as_it_was_found(database: Database) -> None:
    """Every column of a readable series, and the verdict of a refused one."""
    refused = series_row(
        "1.2.4", reason="missing_slices", detail="gap", spacing_mm=None, n_slices=None, voxel_volume_mm3=None
    )
    scan(database, [series_row("1.2.3", warnings=("gantry_tilt",)), refused])
    with database.read() as connection:
        one, two = connection.execute(select(SeriesTable.__table__).order_by(SeriesTable.series_key)).all()
    assert (one.verdict, one.reason, one.warnings, one.subject_key) == ("readable", None, ["gantry_tilt"], SUBJECT)
    assert (one.spacing_k_mm, one.spacing_j_mm, one.spacing_i_mm) == (2.0, 0.5, 0.75)
    assert (one.n_slices, one.rows, one.columns, one.voxel_volume_mm3) == (3, 4, 5, 0.75)
    assert (two.verdict, two.reason, two.spacing_k_mm, two.n_slices) == ("refused", "missing_slices", None, None)


def test_every_file_is_a_row(database: Database) -> None:
    """Found = in series + refused, down to the last file; a path is kept as it is."""
    scan(database, [series_row("1.2.3"), series_row("1.2.4")], junk=4)
    with database.read() as connection:
        in_series = connection.scalar(select(func.count(InstanceTable.series_id)))
        reasons = connection.execute(
            select(InstanceTable.reason, func.count()).where(InstanceTable.series_id.is_(None)).group_by("reason")
        ).all()
    assert in_series == 6
    assert [tuple(row) for row in reasons] == [("not_an_image", 4)]


def test_a_second_scan_replaces_the_first(database: Database, clock: Clock) -> None:
    """A grown series is updated in place, a file gone is gone, a series gone keeps its row and its time."""
    scan(database, [series_row("1.2.3"), series_row("1.2.4")], junk=1)
    began = clock.moment
    clock.advance(3600)
    scan(database, [series_row("1.2.3", n_files=5, fingerprint="e" * 64)])
    with database.read() as connection:
        one, two = connection.execute(select(SeriesTable.__table__).order_by(SeriesTable.series_key)).all()
        n_instances = connection.scalar(select(func.count()).select_from(InstanceTable))
    assert (one.fingerprint, one.n_files) == ("e" * 64, 5)
    assert (one.first_seen_at, one.last_seen_at) == (began, clock.moment)
    assert (two.series_key, two.last_seen_at) == ("1.2.4", began)
    assert n_instances == 5


def test_a_split_series_is_two_rows(database: Database) -> None:
    """One UID, two volumes, two keys."""
    scan(database, [series_row("1.2.3"), series_row("1.2.3-2")])
    with database.read() as connection:
        rows = connection.execute(select(SeriesTable.series_instance_uid, SeriesTable.series_key)).all()
    assert sorted(map(tuple, rows)) == [("1.2.3", "1.2.3"), ("1.2.3", "1.2.3-2")]


def test_a_failed_scan_changes_nothing(database: Database) -> None:
    """One transaction: an error at the last file leaves the index as it was."""
    scan(database, [series_row("1.2.3")])
    stray = FileRow(path="x", size=1, mtime_ns=1, series_key="9.9")
    with pytest.raises(ValueError, match=r"9\.9"):
        record_scan(database, 1, [series_row("1.2.5")], [*files_of(series_row("1.2.5")), stray])
    with database.read() as connection:
        assert connection.scalars(select(SeriesTable.series_key)).all() == ["1.2.3"]
        assert connection.scalar(select(func.count()).select_from(InstanceTable)) == 3


def test_a_file_is_in_a_series_or_refused_never_both_or_neither(database: Database) -> None:
    """The dataclass says so to programmers, the CHECK constraint to everybody."""
    for series_key, reason in (("1.2.3", "not_an_image"), (None, None)):
        with pytest.raises(ValueError, match="in a series or has a reason"):
            FileRow(path="x", size=1, mtime_ns=1, series_key=series_key, reason=reason)
    archive_id = ensure_archive(database, ROOT)
    row = {"archive_id": archive_id, "path": "x", "size": 1, "mtime_ns": 1}
    with pytest.raises(StoreError, match="in_series_or_refused"), database.write() as connection:
        connection.execute(InstanceTable.__table__.insert().values(row))


HOSTILE = ["caf\u00e9.dcm", "a\udcff.dcm", "a\\udcff.dcm", "back\\slash\\u12", "two\\\\u0041", "\udc80\udc81\\"]


def test_any_file_name_is_stored_and_comes_back(database: Database) -> None:
    """Bytes that are no UTF-8, backslashes, and names that look like the escape of others."""
    archive_id = ensure_archive(database, ROOT)
    files = [FileRow(path=path, size=1, mtime_ns=1, reason="unreadable_file") for path in HOSTILE]
    record_scan(database, archive_id, [], files)
    with database.read() as connection:
        assert connection.scalars(select(InstanceTable.path).order_by(InstanceTable.id)).all() == HOSTILE


def test_text_from_headers_cannot_break_the_database(database: Database) -> None:
    """NUL and undecodable bytes in a header value become question marks."""
    row = dataclasses.replace(series_row("1.2.3"), modality="C\0T\udcff")
    record_scan(database, ensure_archive(database, ROOT), [row], [])
    with database.read() as connection:
        assert connection.scalar(select(SeriesTable.modality)) == "C?T?"
