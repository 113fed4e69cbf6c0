"""Bringing the index of an archive up to date: list it, read what is new or changed, judge the series that it touches.

Listing and reading are tasks where there is much to do; only the driver knows the database, and records what was read
while tasks read on. A scan that is killed loses nothing: what was recorded is not read again, and groups that were not
judged are judged by the next.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from vaeseg.config import ReadingConfig
from vaeseg.db.index_files import (
    KnownFile,
    count_present,
    known_directories,
    known_files,
    record_files,
)
from vaeseg.db.index_series import forget_emptied_groups
from vaeseg.db.series_files import FoundSeries, series_with_files
from vaeseg.db.session import Database
from vaeseg.db.upsert import in_batches
from vaeseg.distributed.index_tasks import list_trees, read_files
from vaeseg.distributed.judging import judge_changed
from vaeseg.distributed.spread import here_at_first, on_ray
from vaeseg.errors import ARCHIVE_GONE, StoreError
from vaeseg.io.file_index import READER_VERSION, judge_group, study_of
from vaeseg.io.listing import FoundFile, Listing, is_there, list_directory
from vaeseg.io.manifest import SeriesManifest
from vaeseg.paths import AnyPath
from vaeseg.records import IndexedFile, Reason, SeriesRef, Warn

LISTED_HERE_SECONDS = 10.0
"""The driver lists by itself for as long as starting tasks takes: on a local disk, some hundred thousand files."""
TREES = 128
"""Directories that make it worth while to list them elsewhere."""
TREE_TASKS = 1024
"""That they are given to, about; each is a tree, or a leaf of one."""
FILES_COMPARED = 5_000
"""Listed files that are compared with the index at once."""
FILES_READ = 100_000
"""Files whose headers are read in one go, at most: their names are in memory."""
FILES_RECORDED = 5_000
"""Files of one transaction, at most."""
FILES_A_TASK = 400
MANIFESTS_AT_ONCE = 200
"""Series: a hundred files each are 40 MB of headers while their manifests are made."""
ALL_IS_GONE = (
    "nothing of what the index knows is in the archive any more, nor any other image: is the file system mounted? If "
    "all was really deleted, remove the archive with 'vaeseg-batch archive remove'"
)


@dataclass(frozen=True, kw_only=True)
class IndexJob:
    """What to index, and how."""

    archive_id: int
    root: AnyPath
    reading: ReadingConfig
    exclude: tuple[AnyPath, ...]
    """Directories not to enter."""
    secret: bytes = field(repr=False)
    """Of the subject keys."""
    stable_seconds: float
    """Files that changed within this time wait."""


@dataclass(kw_only=True)
class IndexReport:
    """What a scan found."""

    n_listed: int = 0
    """Files."""
    n_unseen: int = 0
    """Files that the index keeps, of directories that could not be listed and of those below them."""
    n_read: int = 0
    """Headers of new or changed files."""
    n_found_again: int = 0
    n_vanished: int = 0
    n_waiting: int = 0
    """Files too young to be looked at, that the index does not have."""
    n_judged: int = 0
    """Groups of files."""
    waiting_studies: set[str] = field(default_factory=set)
    """Studies with young files: nothing of them is to be segmented yet."""

    def counts(self) -> dict[str, int]:
        """The numbers, as they are kept with a run."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}


@dataclass(kw_only=True)
class _Changes:
    """What comparing a listing with the index has found."""

    to_read: list[FoundFile] = field(default_factory=list)
    new: set[str] = field(default_factory=set)
    """Paths of those to read that the index does not have."""
    young: list[FoundFile] = field(default_factory=list)
    found_again: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    n_unseen: int = 0
    n_waiting: int = 0
    n_known: int = 0
    """Images listed that the index has, changed, found again, or as they were."""


def update_index(database: Database, job: IndexJob, check: Callable[[], None]) -> IndexReport:
    """Make the index say what lies in the archive now.

    Args:
        database: of the ledger.
        job: what to index.
        check: called often; what it raises ends the scan, which the next goes on with.

    Raises:
        StoreError: the root cannot be listed, or holds no image where there were some before.
        PipelineError: Ray failed.
    """
    report = IndexReport()
    _find_changes(database, job, report, check)
    forget_emptied_groups(database, job.archive_id)
    report.n_judged = judge_changed(database, job.archive_id, job.root, job.reading, check)
    return report


def manifests_of(database: Database, job: IndexJob, series_keys: Sequence[str]) -> dict[str, SeriesManifest]:
    """What workers need to read some series, by key; for `MANIFESTS_AT_ONCE` at a time.

    A series is left out whose files changed so that they are no longer judged as the index has it.
    """
    series = series_with_files(database, job.archive_id, series_keys)
    found = {one.series_key: _manifest(job, one) for one in series}
    return {key: manifest for key, manifest in found.items() if manifest is not None}


def _find_changes(database: Database, job: IndexJob, report: IndexReport, check: Callable[[], None]) -> None:
    listed: set[str] = set()
    closed: list[str] = []
    pending = _Changes()
    for batch in _batches(_listings(job, check)):
        report.n_listed += sum(len(listing.files) for listing in batch)
        listed.update(listing.directory for listing in batch)
        closed += [listing.directory for listing in batch if not listing.is_readable]
        _compare(database, job, batch, pending)
        if len(pending.to_read) >= FILES_READ:
            _record(database, job, pending, report, check)
            pending = _Changes()
    _vanish(database, job, report, listed, set(closed), pending, check)
    _check_something_is_left(job, report, pending, check)
    _record(database, job, pending, report, check)


def _listings(job: IndexJob, check: Callable[[], None]) -> Iterator[Listing]:
    """Every directory: by the driver, and after some seconds the trees that are left by tasks, if there are many."""
    pending = deque([""])
    here_until = time.monotonic() + LISTED_HERE_SECONDS
    try:
        while pending and (time.monotonic() < here_until or len(pending) < TREES):
            check()
            listing = list_directory(job.root, pending.popleft(), job.exclude)
            pending.extend(listing.directories)
            yield listing
    except OSError as error:
        raise StoreError(f"cannot list the study directory: {error.strerror}") from error
    if pending:
        trees = in_batches(pending, 1 + len(pending) // TREE_TASKS)
        yield from on_ray(partial(list_trees, job.root, job.exclude), trees, check)


def _batches(listings: Iterable[Listing]) -> Iterator[list[Listing]]:
    batch: list[Listing] = []
    n_files = 0
    for listing in listings:
        batch.append(listing)
        n_files += max(1, len(listing.files))
        if n_files >= FILES_COMPARED:
            yield batch
            batch, n_files = [], 0
    if batch:
        yield batch


def _compare(database: Database, job: IndexJob, listings: Sequence[Listing], changes: _Changes) -> None:
    known = known_files(database, job.archive_id, [listing.directory for listing in listings if listing.is_readable])
    now = time.time()
    for listing in listings:
        before = known.get(listing.directory, {})
        for file in listing.files:
            _compare_file(file, before.pop(file.path, None), is_young(file, now, job.stable_seconds), changes)
        changes.vanished += _present(before)
    closed = [listing for listing in listings if not listing.is_readable]
    listed = [file.path for listing in closed for file in listing.files]
    changes.n_unseen += count_present(database, job.archive_id, [listing.directory for listing in closed], but=listed)


def _present(known: Mapping[str, KnownFile]) -> list[str]:
    return [path for path, file in known.items() if not file.is_missing]


def _compare_file(file: FoundFile, before: KnownFile | None, is_young: bool, changes: _Changes) -> None:
    changes.n_known += before is not None and before.is_image
    if is_young:
        changes.young.append(file)
        changes.n_waiting += before is None or before.is_missing
    elif before is None or before.is_unread or _state(before) != (file.size, file.mtime_ns, READER_VERSION):
        changes.to_read.append(file)
        if before is None:
            changes.new.add(file.path)
    elif before.is_missing:
        changes.found_again.append(file.path)


def _state(known: KnownFile) -> tuple[int, int, int]:
    return known.size, known.mtime_ns, known.reader_version


def is_young(file: FoundFile, now: float, stable_seconds: float) -> bool:
    """Whether a file changed lately; one from the far future tells of a wrong clock and not of an arrival."""
    age = now - file.mtime_ns / 1e9
    return -stable_seconds < age < stable_seconds


def _vanish(
    database: Database,
    job: IndexJob,
    report: IndexReport,
    listed: set[str],
    closed: set[str],
    changes: _Changes,
    check: Callable[[], None],
) -> None:
    """Files of directories that are gone; what lies below one that cannot be listed is not known to be gone."""
    before = known_directories(database, job.archive_id)
    if before and report.n_listed == 0:
        raise StoreError(ALL_IS_GONE)
    not_listed = {directory for directory in before if directory not in listed}
    unseen = {directory for directory in not_listed if _is_below(directory, closed)}
    changes.n_unseen += count_present(database, job.archive_id, unseen)
    for batch in in_batches(sorted(not_listed - unseen)):
        check()
        for files in known_files(database, job.archive_id, batch).values():
            changes.vanished += _present(files)


def _is_below(directory: str, others: set[str]) -> bool:
    while directory:
        directory = directory.rpartition("/")[0]
        if directory in others:
            return True
    return False


def _check_something_is_left(job: IndexJob, report: IndexReport, changes: _Changes, check: Callable[[], None]) -> None:
    """Take nothing for gone where all that was known is, and what lies there now is no image: below a share that is not
    mounted lie stray files of the machine's own."""
    if not changes.vanished or changes.n_known or report.n_read:
        return
    if not any(file.group_key for file in _headers(job, changes.to_read + changes.young, check)):
        raise StoreError(ALL_IS_GONE)


def _record(
    database: Database, job: IndexJob, changes: _Changes, report: IndexReport, check: Callable[[], None]
) -> None:
    """Read what is to be read, and tell the index."""
    studies = {study_of(file) for file in _headers(job, changes.young, check)}
    report.waiting_studies |= {study for study in studies if study}
    for paths in in_batches(changes.found_again, FILES_RECORDED):
        check()
        record_files(database, job.archive_id, READER_VERSION, found_again=paths)
    for paths in in_batches(changes.vanished, FILES_RECORDED):
        check()
        record_files(database, job.archive_id, READER_VERSION, vanished=paths)
    for read in in_batches(_headers(job, changes.to_read, check), FILES_RECORDED):
        _check_archive(job, read)
        record_files(database, job.archive_id, READER_VERSION, read, new=changes.new)
        report.n_read += len(read)
    report.n_found_again += len(changes.found_again)
    report.n_vanished += len(changes.vanished)
    report.n_waiting += changes.n_waiting
    report.n_unseen += changes.n_unseen


def _check_archive(job: IndexJob, read: Sequence[IndexedFile]) -> None:
    """Record nothing of an archive that dropped out while it was read."""
    if any(file.reason == Reason.UNREADABLE_FILE for file in read) and not is_there(job.root):
        raise StoreError(ARCHIVE_GONE)


def _headers(job: IndexJob, files: Sequence[FoundFile], check: Callable[[], None]) -> Iterator[IndexedFile]:
    """What files say, in no particular order."""
    batches = list(in_batches(files, FILES_A_TASK))
    for read in here_at_first(partial(read_files, job.root, job.reading, job.secret), batches, check):
        yield from read


def _manifest(job: IndexJob, series: FoundSeries) -> SeriesManifest | None:
    """The manifest of a series under the names that the index gave it."""
    if not series.group_files:
        return None
    verdicts = judge_group(job.root, series.group_files, job.reading, is_beside_damage=False)
    own = [verdict for verdict in verdicts if {file.path for file in verdict.files} == series.paths]
    if not own or own[0].manifest is None:
        return None
    ref = SeriesRef(
        series_instance_uid=series.series_instance_uid,
        study_instance_uid=series.study_instance_uid,
        subject_key=series.subject_key,
    )
    warnings = tuple(Warn(name) for name in series.warnings)
    return replace(own[0].manifest, series_key=series.series_key, ref=ref, warnings=warnings)
