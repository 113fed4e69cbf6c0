"""Erasing a subject from a store: rows, rows of Parquet, masks; in steps that can be interrupted anywhere.

    staged      parts without the subject's rows are in staging, durable
    unmasked    its masks and previews are gone
    recorded    SQL has lost all but its series, and knows the new parts
    published   the new parts lie where readers look, emptied ones are gone
    compacted   a SQLite file holds nothing any more of what was deleted
    forgotten   its series are gone

Killed anywhere, the same command begins again and finishes: the series, by which it finds the subject, go last. Nothing
here knows Ray.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from vaeseg.db.drivers import close_lost_runs, take_archive
from vaeseg.db.erasure import SubjectFinding, SubjectRows, delete_rows, delete_series, masks_of_others, subject_rows
from vaeseg.db.parts import recorded_parts
from vaeseg.db.runs import finish_run, start_run
from vaeseg.db.session import Database
from vaeseg.distributed.commit import recover_parts
from vaeseg.distributed.lifecycle import RunInterruptedError, finish_quietly, heartbeats, interruptible
from vaeseg.distributed.verify import remove_file, unknown_parts
from vaeseg.errors import StoreError, UsageError, VaesegError
from vaeseg.io.parts import rows_of_series, stage_without
from vaeseg.io.store import Store
from vaeseg.paths import AnyPath, below, matches, remove_tree
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
    parts: tuple[tuple[PartFile, int], ...]
    """Part files that hold rows of it, and how many."""
    mask_directories: tuple[AnyPath, ...]
    n_mask_files: int
    """Masks and previews in them."""

    @property
    def file_counts(self) -> dict[str, int]:
        """What goes besides rows of the database."""
        return {
            "parquet_rows": sum(count for _, count in self.parts),
            "parquet_files": len(self.parts),
            "mask_files": self.n_mask_files,
        }


def find_traces(store: Store, database: Database, subject_key: str) -> Traces:
    """What there is of a subject; changes nothing.

    Raises:
        UsageError: this cannot be the key of a subject.
        StoreError: there is nothing, or a part file is not what was recorded.
    """
    if not SUBJECT_KEY.fullmatch(subject_key):
        raise UsageError("a subject's key is 32 hexadecimal digits: 'vaeseg-batch subject-key' gives that of a patient")
    rows = subject_rows(database, subject_key)
    if not (rows.series or rows.work_items or rows.instances):
        raise StoreError("no such subject in this store: nothing is left to erase")
    directories = _mask_directories(store, database, rows)
    return Traces(
        rows=rows,
        parts=tuple(_parts(store, database, rows)),
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
    archive_ids = find_traces(store, database, subject_key).rows.archive_ids
    with _erasing(database, archive_ids) as (run_id, reached):

        def done(name: str) -> None:
            step(name)
            reached()

        found = find_traces(store, database, subject_key)  # again, now that no run adds to it
        parts = [stage_without(store, part, _series_in(part, found.rows)) for part, _ in found.parts]
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


@contextmanager
def _erasing(database: Database, archive_ids: tuple[int, ...]) -> Iterator[tuple[str, Callable[[], None]]]:
    """A run that has some archives for itself; its id, and what to call where it is safe to stop."""
    run_id = start_run(database, kind="erase", archive_id=None, model_digest=None, config_json="{}", config_digest="")
    try:
        for archive_id in archive_ids:
            take_archive(database, archive_id, run_id)
        with interruptible() as interruption, heartbeats(database, run_id, interruption.cancel):
            yield run_id, interruption.check
    except VaesegError as error:
        finish_quietly(database, run_id, "interrupted" if isinstance(error, RunInterruptedError) else "failed")
        raise
    finish_run(database, run_id, "finished")


def _parts(store: Store, database: Database, rows: SubjectRows) -> Iterator[tuple[PartFile, int]]:
    touched = {(finding.run_id, finding.part) for finding in rows.findings}
    for run_id in sorted({run_id for run_id, _ in touched}):
        for part, is_published in recorded_parts(database, run_id):
            if not is_published or (run_id, part.name) not in touched:
                continue  # not in its place: lost, or what `recover_parts` moves
            if count := rows_of_series(store, part, _series_in(part, rows)):
                yield part, count


def _series_in(part: PartFile, rows: SubjectRows) -> set[tuple[str | None, ...]]:
    """What the subject's rows are known by in one part file: values of `io.parquet.SERIES_COLUMNS`."""
    here = [finding for finding in rows.findings if (finding.run_id, finding.part) == (part.run_id, part.name)]
    return {_row_key(finding) if part.dataset == "findings" else (finding.series_key,) for finding in here}


def _row_key(finding: SubjectFinding) -> tuple[str | None, ...]:
    return (
        finding.series_instance_uid,
        finding.study_instance_uid,
        finding.subject_key,
        finding.outcome,
        finding.mask_uri,
    )


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
