"""Files of an index by what became of them, counted otherwise than `db.coverage` does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from sqlalchemy import case, func, select

from vaeseg.db.session import Database
from vaeseg.db.tables import InstanceTable, SeriesTable
from vaeseg.records import FileCount


def count_files(
    database: Database, archive_id: int, n_waiting: int = 0, waiting_studies: Collection[str] = ()
) -> FileCount:
    """Files of an archive by what became of them; those that are missing are not counted.

    Args:
        database: where.
        archive_id: whose.
        n_waiting: files that the scan found and left alone.
        waiting_studies: files of these that make no volume yet are waiting, and not refused.
    """
    study = case((SeriesTable.reason.is_not(None), SeriesTable.study_instance_uid))
    reason = func.coalesce(InstanceTable.reason, SeriesTable.reason)
    statement = (
        select(reason, study, func.count())
        .select_from(InstanceTable)
        .join(SeriesTable, SeriesTable.id == InstanceTable.series_id, isouter=True)
        .where(InstanceTable.archive_id == archive_id, InstanceTable.missing_since.is_(None))
        .group_by(reason, study)
    )
    in_series, by_reason = 0, Counter[str]()
    with database.read() as connection:
        for why, of_study, count in connection.execute(statement):
            if why is None:
                in_series += count
            elif of_study in waiting_studies:
                n_waiting += count
            else:
                by_reason[why] += count
    return FileCount(
        found=in_series + by_reason.total() + n_waiting,
        in_series=in_series,
        refused=by_reason.total(),
        refused_by_reason=dict(sorted(by_reason.items())),
        waiting=n_waiting,
    )
