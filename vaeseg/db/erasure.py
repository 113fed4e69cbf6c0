"""What the database holds of one subject, and its removal.

A subject's series are those that carry its key; a finding that was made under its key counts as well, although its
series may be somebody else's by now (a patient id that was corrected), and so do files whose headers name it. Under
which key a finding was made, Parquet knows: here, findings follow their series (`db.index_series`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from vaeseg.db.events import account, add_event
from vaeseg.db.parts import row_of
from vaeseg.db.session import Database
from vaeseg.db.tables import (
    ArchiveTable,
    ChangedGroupTable,
    EventTable,
    ExclusionTable,
    FindingTable,
    InstanceTable,
    LesionTable,
    PartTable,
    RunTable,
    SeriesTable,
    WorkItemTable,
)
from vaeseg.db.upsert import in_batches, insert_missing
from vaeseg.records import PartFile


@dataclass(frozen=True, kw_only=True)
class SubjectSeries:
    """A series of the subject."""

    id: int
    archive_id: int
    series_key: str
    study_instance_uid: str
    group_key: str


@dataclass(frozen=True, kw_only=True)
class SubjectFinding:
    """A finding of the subject: of one of its series, or made under its key."""

    id: int
    work_item_id: int
    archive_id: int
    series_key: str
    study_instance_uid: str
    mask_uri: str | None
    run_id: str
    part: str


@dataclass(frozen=True, kw_only=True)
class SubjectRows:
    """Everything in the database that is about one subject."""

    series: tuple[SubjectSeries, ...]
    findings: tuple[SubjectFinding, ...]
    work_items: tuple[int, ...]
    instances: tuple[int, ...]
    groups: tuple[tuple[int, str], ...]
    """Archive and group of those files."""
    files: tuple[tuple[str, str], ...]
    """Of `instances`, files that the last scan found: root of their archive, and path below it."""
    n_lesions: int
    n_exclusions: int

    @property
    def archive_ids(self) -> tuple[int, ...]:
        """Archives that are touched, in order."""
        of_rows = {series.archive_id for series in self.series} | {finding.archive_id for finding in self.findings}
        return tuple(sorted(of_rows | {archive_id for archive_id, _ in self.groups}))

    @property
    def n_findings_of_others(self) -> int:
        """Findings of series that are somebody else's by now."""
        own = {(series.archive_id, series.series_key) for series in self.series}
        return sum((finding.archive_id, finding.series_key) not in own for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by table."""
        return {
            "series": len(self.series),
            "instances": len(self.instances),
            "work_items": len(self.work_items),
            "findings": len(self.findings),
            "lesions": self.n_lesions,
            "exclusions": self.n_exclusions,
        }


def subject_rows(database: Database, subject_key: str, made_under: Sequence[int] = ()) -> SubjectRows:
    """What there is of a subject; empty for one that is not known.

    Args:
        database: where.
        subject_key: 32 hex digits; also looked for, as a JSON string, in what files said.
        made_under: ids of findings that were made under its key.
    """
    with database.read() as connection:
        series = _series(connection, subject_key)
        series_ids = [row.id for row in series]
        items = _work_items(connection, subject_key, series_ids, made_under)
        findings = _findings(connection, items)
        instances = _instances(connection, subject_key, series_ids)
        return SubjectRows(
            series=tuple(series),
            findings=tuple(findings),
            work_items=tuple(items),
            instances=tuple(sorted(row.id for row in instances)),
            groups=tuple(sorted({(row.archive_id, row.group_key) for row in instances if row.group_key is not None})),
            files=tuple(sorted((row.root, row.path) for row in instances if row.missing_since is None)),
            n_lesions=_count(connection, LesionTable.finding_id, [finding.id for finding in findings]),
            n_exclusions=_count(connection, ExclusionTable.series_id, series_ids),
        )


def masks_of_others(database: Database, rows: SubjectRows) -> set[str]:
    """Mask files in the subject's studies that findings of somebody else name: of a copy in another archive, say."""
    named = select(FindingTable.work_item_id, FindingTable.mask_uri).where(FindingTable.mask_uri.is_not(None))
    studies = {series.study_instance_uid for series in rows.series}
    studies |= {finding.study_instance_uid for finding in rows.findings}
    own = set(rows.work_items)
    with database.read() as connection:
        found = _selected(connection, named, FindingTable.study_instance_uid, sorted(studies))
        return {row.mask_uri for row in found if row.work_item_id not in own}


def archives_of_runs(database: Database, run_ids: Sequence[str]) -> set[int]:
    """Archives that some runs worked on."""
    with database.read() as connection:
        found = _selected(connection, select(RunTable.archive_id), RunTable.id, run_ids)
        return {row.archive_id for row in found if row.archive_id is not None}


def erasure_is_unfinished(database: Database) -> bool:
    """Whether the last erasure that deleted rows was killed or interrupted before its end."""
    steps = select(EventTable.kind).where(EventTable.kind.in_(("subject_rows_erased", "subject_erased")))
    with database.read() as connection:
        return connection.scalar(steps.order_by(EventTable.id.desc()).limit(1)) == "subject_rows_erased"


def delete_rows(
    database: Database, run_id: str, rows: SubjectRows, parts: Sequence[PartFile], file_counts: Mapping[str, int]
) -> None:
    """Delete all but the series themselves, and record the parts as they were staged; one transaction.

    The series stay until `delete_series`, so that an erasure that was killed can be begun again.

    Args:
        database: where.
        run_id: the run that erases.
        rows: of `subject_rows`.
        parts: files that lose rows, as they shall be; those with `n_rows` 0 go.
        file_counts: what goes besides rows, for the event.
    """
    counts = {table: count for table, count in rows.counts.items() if table != "series"}
    detail = {"rows": counts, **file_counts}
    finding_ids = [finding.id for finding in rows.findings]
    with database.write() as connection:
        _delete(connection, LesionTable.finding_id, finding_ids)
        _delete(connection, FindingTable.id, finding_ids)
        _delete(connection, WorkItemTable.id, rows.work_items)
        _delete(connection, ExclusionTable.series_id, [series.id for series in rows.series])
        _delete(connection, InstanceTable.id, rows.instances)
        _settle_groups(connection, rows)
        _change_parts(connection, rows, parts)
        n_rows = sum(counts.values())
        add_event(connection, database, "subject_rows_erased", run_id, detail, actor=account(), n_rows=n_rows)


def delete_series(database: Database, run_id: str, rows: SubjectRows) -> None:
    """Delete the series, after which nothing knows the subject, and record that it is erased."""
    with database.write() as connection:
        _delete(connection, SeriesTable.id, [series.id for series in rows.series])
        add_event(connection, database, "subject_erased", run_id, actor=account(), n_rows=len(rows.series))


def _series(connection: Connection, subject_key: str) -> list[SubjectSeries]:
    columns = (
        SeriesTable.id,
        SeriesTable.archive_id,
        SeriesTable.series_key,
        SeriesTable.study_instance_uid,
        SeriesTable.group_key,
    )
    found = connection.execute(select(*columns).where(SeriesTable.subject_key == subject_key).order_by(SeriesTable.id))
    return [SubjectSeries(**row._mapping) for row in found]


def _work_items(
    connection: Connection, subject_key: str, series_ids: Sequence[int], made_under: Sequence[int]
) -> list[int]:
    """Of its series, and those that a finding under its key came of: other findings of such an item go with it."""
    of_finding = select(FindingTable.work_item_id)
    found = set(connection.scalars(of_finding.where(FindingTable.subject_key == subject_key)))
    found |= {row.work_item_id for row in _selected(connection, of_finding, FindingTable.id, made_under)}
    found |= {row.id for row in _selected(connection, select(WorkItemTable.id), WorkItemTable.series_id, series_ids)}
    return sorted(found)


def _findings(connection: Connection, items: Sequence[int]) -> list[SubjectFinding]:
    statement = select(
        FindingTable.id,
        FindingTable.work_item_id,
        SeriesTable.archive_id,
        SeriesTable.series_key,
        FindingTable.study_instance_uid,
        FindingTable.mask_uri,
        FindingTable.run_id,
        FindingTable.part,
    ).join(SeriesTable, SeriesTable.id == FindingTable.series_id)
    found = _selected(connection, statement, FindingTable.work_item_id, items)
    return [SubjectFinding(**row._mapping) for row in found]


def _instances(connection: Connection, subject_key: str, series_ids: Sequence[int]) -> list[Any]:
    """Files of its series, files whose header has its key, and files beside them that are in no series and are gone."""
    statement = select(
        InstanceTable.id,
        InstanceTable.archive_id,
        ArchiveTable.root,
        InstanceTable.path,
        InstanceTable.directory,
        InstanceTable.group_key,
        InstanceTable.missing_since,
    ).join(ArchiveTable, ArchiveTable.id == InstanceTable.archive_id)
    own = list(_selected(connection, statement, InstanceTable.series_id, series_ids))
    own += connection.execute(statement.where(InstanceTable.header.contains(f'"{subject_key}"', autoescape=True))).all()
    gone = statement.where(InstanceTable.reason.is_not(None), InstanceTable.missing_since.is_not(None))
    for archive_id, directories in _by_archive((row.archive_id, row.directory) for row in list(own)):
        of_archive = gone.where(InstanceTable.archive_id == archive_id)
        own += _selected(connection, of_archive, InstanceTable.directory, directories)
    return list({row.id: row for row in own}.values())


def _settle_groups(connection: Connection, rows: SubjectRows) -> None:
    """Have groups judged anew that lost some of their files; those that lost all need no judging."""
    for archive_id, groups in _by_archive(rows.groups):
        for batch in in_batches(groups):
            of_archive = (ChangedGroupTable.archive_id == archive_id) & ChangedGroupTable.group_key.in_(batch)
            connection.execute(delete(ChangedGroupTable).where(of_archive))
            left = select(InstanceTable.group_key).where(
                InstanceTable.archive_id == archive_id, InstanceTable.group_key.in_(batch)
            )
            marks = [{"archive_id": archive_id, "group_key": group} for group in connection.scalars(left.distinct())]
            insert_missing(connection, ChangedGroupTable, marks, key=("archive_id", "group_key"))


def _change_parts(connection: Connection, rows: SubjectRows, parts: Sequence[PartFile]) -> None:
    for part in parts:
        if part.n_rows == 0:
            connection.execute(delete(PartTable).where(row_of(part)))
        else:
            values = {"n_rows": part.n_rows, "sha256": part.sha256, "published": False}
            connection.execute(update(PartTable).where(row_of(part)).values(values))
    for run_id, name in sorted({(finding.run_id, finding.part) for finding in rows.findings}):
        others = select(FindingTable.id).where(FindingTable.run_id == run_id, FindingTable.part == name)
        emptied = (PartTable.run_id == run_id) & (PartTable.name == name) & ~others.exists()
        connection.execute(delete(PartTable).where(emptied))  # also of files that were lost before


def _selected(connection: Connection, statement: Any, column: Any, values: Sequence[Any]) -> Iterator[Any]:
    for batch in in_batches(values):
        yield from connection.execute(statement.where(column.in_(batch))).all()


def _delete(connection: Connection, column: Any, values: Sequence[Any]) -> None:
    for batch in in_batches(values):
        connection.execute(delete(column.class_).where(column.in_(batch)))


def _count(connection: Connection, column: Any, values: Sequence[Any]) -> int:
    statement = select(func.count()).select_from(column.class_)
    return sum(connection.scalar(statement.where(column.in_(batch))) or 0 for batch in in_batches(values))


def _by_archive(pairs: Iterable[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    grouped: dict[int, set[str]] = defaultdict(set)
    for archive_id, value in pairs:
        grouped[archive_id].add(value)
    for archive_id, values in sorted(grouped.items()):
        yield archive_id, sorted(values)
