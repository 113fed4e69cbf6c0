"""Erasing a subject from a store: rows, rows of Parquet, masks; in steps that can be interrupted anywhere.

    staged      parts without the subject's rows are in staging, durable
    unmasked    its masks and previews are gone
    recorded    SQL has lost all but its series, and knows the new parts
    published   the new parts lie where readers look, emptied ones are gone
    compacted   a SQLite file holds nothing any more of what was deleted
    forgotten   its series are gone

Killed anywhere, the same command begins again and finishes: the series, by which it finds the subject, go last, and
where it had none, that the last erasure was not finished is known from the events. Nothing here knows Ray.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from vaeseg.db.drivers import close_lost_runs
from vaeseg.db.erasure import (
    SubjectRows,
    archives_of_runs,
    delete_rows,
    delete_series,
    erasure_is_unfinished,
    masks_of_others,
    subject_rows,
)
from vaeseg.db.parts import recorded_parts
from vaeseg.db.session import Database
from vaeseg.distributed.commit import recover_parts
from vaeseg.distributed.lifecycle import archives_held
from vaeseg.distributed.verify import remove_file, unknown_parts
from vaeseg.distributed.written import WrittenFinding, written_findings
from vaeseg.errors import StoreError, UsageError
from vaeseg.io.listing import count_there
from vaeseg.io.parts import read_recorded, stage_without
from vaeseg.io.store import Store
from vaeseg.paths import AnyPath, any_path, below, matches, remove_tree
from vaeseg.records import PartFile

ERASE_STEPS = ("staged", "unmasked", "recorded", "published", "compacted", "forgotten")
"""Names with which the step hook is called, each after what it names."""

SUBJECT_KEY = re.compile("[0-9a-f]{32}")
"""Nothing else is looked for, since it is looked for in the text of headers too."""

Step = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What a store holds of a subject."""

    rows: SubjectRows
    archive_ids: tuple[int, ...]
    """Archives that nobody else may work on meanwhile, in order."""
    parts: tuple[tuple[PartFile, frozenset[int]], ...]
    """Part files that hold rows of it, and which: numbers from 0."""
    n_left_behind: int
    """Of those, rows that no finding in SQL has any more, whoever's they were."""
    mask_directories: tuple[AnyPath, ...]
    n_mask_files: int
    """Masks and previews in them."""

    @property
    def file_counts(self) -> dict[str, int]:
        """What goes besides rows of the database."""
        return {
            "parquet_rows": sum(len(numbers) for _, numbers in self.parts),
            "parquet_files": len(self.parts),
            "mask_files": self.n_mask_files,
        }


@dataclass(frozen=True, kw_only=True)
class FilesLeft:
    """Of the files that the last scan found of a subject."""

    n_there: int
    """In their archive now."""
    n_unseen: int
    """In an archive that cannot be listed now, or is empty."""


def find_traces(store: Store, database: Database, subject_key: str) -> Traces:
    """What there is of a subject, and what erasures of older versions left of anybody; changes nothing.

    Raises:
        UsageError: this cannot be the key of a subject.
        StoreError: there is nothing, or a part file is not what was recorded.
    """
    if not SUBJECT_KEY.fullmatch(subject_key):
        raise UsageError("a subject's key is 32 hexadecimal digits: 'vaeseg-batch subject-key' gives that of a patient")
    written = dict(written_findings(store, database))
    rows = subject_rows(database, subject_key, _made_under(subject_key, written))
    parts = (*_findings_parts(rows, written), *_other_parts(store, database, rows))
    if not (rows.series or rows.work_items or rows.instances or parts or erasure_is_unfinished(database)):
        raise StoreError("no such subject in this store: nothing is left to erase")
    directories = _mask_directories(store, database, rows)
    archive_ids = {*rows.archive_ids, *archives_of_runs(database, sorted({part.run_id for part, _ in parts}))}
    return Traces(
        rows=rows,
        archive_ids=tuple(sorted(archive_ids)),
        parts=parts,
        n_left_behind=sum(row.finding_id is None for of_part in written.values() for row in of_part),
        mask_directories=directories,
        n_mask_files=sum(len(matches(directory, "*")) for directory in directories),
    )


def erase_subject(store: Store, database: Database, subject_key: str, step: Step = lambda _name: None) -> Traces:
    """Remove everything that a store holds of a subject, and record that it was done, but not to whom.

    Args:
        store: whose files.
        database: its ledger.
        subject_key: the pseudonym.
        step: called after each of `ERASE_STEPS`; raising in it is like being killed there.

    Returns:
        What was removed.

    Raises:
        UsageError: this cannot be the key of a subject.
        ArchiveBusyError: a run that is alive has an archive with files of the subject.
        RunInterruptedError: Ctrl-C, SIGTERM or `cancel`; the same command goes on.
        StoreError: there is nothing of such a subject, or the store or the database cannot be written.
    """
    close_lost_runs(database)
    recover_parts(store, database)  # also of an erasure that was interrupted
    archive_ids = find_traces(store, database, subject_key).archive_ids
    with archives_held(database, "erase", archive_ids) as (run_id, reached):

        def done(name: str) -> None:
            step(name)
            reached()

        found = find_traces(store, database, subject_key)  # again, now that no run adds to it
        parts = [stage_without(store, part, numbers) for part, numbers in found.parts]
        done("staged")
        for directory in found.mask_directories:
            _remove_directory(store, directory)
        done("unmasked")
        delete_rows(database, run_id, found.rows, parts, found.file_counts)
        done("recorded")
        recover_parts(store, database)
        for path in unknown_parts(store, database):
            remove_file(store, path)
        done("published")
        database.compact()
        done("compacted")
        delete_series(database, run_id, found.rows)
        step("forgotten")
    return found


def look_for_files(rows: SubjectRows) -> FilesLeft:
    """Whether the files of a subject are in their archives at this moment."""
    paths: dict[str, list[str]] = defaultdict(list)
    for root, path in rows.files:
        paths[root].append(path)
    found = {root: count_there(any_path(root), paths[root]) for root in paths}
    n_unseen = sum(len(paths[root]) for root, count in found.items() if count is None)
    return FilesLeft(n_there=sum(count or 0 for count in found.values()), n_unseen=n_unseen)


def _made_under(subject_key: str, written: Mapping[PartFile, Sequence[WrittenFinding]]) -> list[int]:
    """Findings that were made under a key, whosever their series are by now."""
    rows = [row for of_part in written.values() for row in of_part if row.subject_key == subject_key]
    return sorted(row.finding_id for row in rows if row.finding_id is not None)


def _findings_parts(
    rows: SubjectRows, written: Mapping[PartFile, Sequence[WrittenFinding]]
) -> Iterator[tuple[PartFile, frozenset[int]]]:
    """Findings files with rows of findings that go, or of findings that SQL has no more."""
    going = {finding.id for finding in rows.findings} | {None}
    for part, of_part in written.items():
        if numbers := frozenset(number for number, row in enumerate(of_part) if row.finding_id in going):
            yield part, numbers


def _other_parts(store: Store, database: Database, rows: SubjectRows) -> Iterator[tuple[PartFile, frozenset[int]]]:
    """Files of lesions, slices and masks with rows of the subject's series."""
    series_keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for finding in rows.findings:
        series_keys[finding.run_id, finding.part].add(finding.series_key)
    for run_id in sorted({run_id for run_id, _ in series_keys}):
        for part, is_published in recorded_parts(database, run_id):
            touched = series_keys.get((run_id, part.name))
            if part.dataset == "findings" or not is_published or not touched:
                continue  # not in its place: lost, or what `recover_parts` moves
            keys = read_recorded(store, part, ("series_key",))
            if numbers := frozenset(number for number, (key,) in enumerate(keys) if key in touched):
                yield part, numbers


def _mask_directories(store: Store, database: Database, rows: SubjectRows) -> tuple[AnyPath, ...]:
    """Directories of its masks, also of those that no finding names, such as a kill leaves."""
    uris = {finding.mask_uri for finding in rows.findings if finding.mask_uri is not None}
    found = {(store.root / uri).parent for uri in uris}
    for series in rows.series:
        found.update(matches(store.masks / series.study_instance_uid / series.series_key, "*"))
    kept = {(store.root / uri).parent for uri in masks_of_others(database, rows)}
    return tuple(sorted((path for path in found - kept if path.is_dir()), key=str))


def _remove_directory(store: Store, directory: AnyPath) -> None:
    """Remove it and what is in it, and the directories above it that are empty then."""
    try:
        remove_tree(directory)
    except OSError as error:
        raise StoreError(f"cannot write the store {store.root}: {error.strerror}") from error
    with suppress(OSError):  # a directory above it holds more
        for parent in below(directory, store.masks).parents[:-1]:
            (store.masks / parent).rmdir()
