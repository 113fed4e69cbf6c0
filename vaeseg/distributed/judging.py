"""Judging what the files of changed groups make: the driver fetches and records, and tasks judge where there is much.

What is recorded does not depend on which task was done first: parts are put in the order in which they were given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count

from vaeseg.config import ReadingConfig
from vaeseg.db.index_files import changed_groups, damaged_directories
from vaeseg.db.index_series import JudgedSeries, SeriesRow, record_groups
from vaeseg.db.session import Database
from vaeseg.distributed.index_tasks import Group, Groups, JudgedGroups, SeriesValues, judge_groups
from vaeseg.distributed.spread import here_at_first
from vaeseg.paths import AnyPath

FILES_JUDGED = 20_000
"""Headers that are fetched at once, unless a single group has more; one transaction records their series."""
FILES_A_TASK = 500


def judge_changed(
    database: Database, archive_id: int, root: AnyPath, reading: ReadingConfig, check: Callable[[], None]
) -> int:
    """Judge every group that changed, and record the series that it makes.

    Args:
        database: of the ledger.
        archive_id: whose groups.
        root: of the archive; opened only to compare files that claim to be the same instance.
        reading: bounds.
        check: called often; what it raises ends it.

    Returns:
        How many groups.

    Raises:
        StoreError: the database fails.
        PipelineError: Ray failed.
    """
    n_judged = 0
    judged: dict[str, list[JudgedSeries]] = {}
    items = _items(database, archive_id)
    for part in _in_order(here_at_first(partial(judge_groups, root, reading), items, check)):
        judged |= {group: list(map(_judged, series)) for group, series in part.series.items()}
        if part.ends_page:
            record_groups(database, archive_id, judged)
            n_judged, judged = n_judged + len(judged), {}
    return n_judged


def _items(database: Database, archive_id: int) -> Iterator[Groups]:
    """Fetched as they are asked for."""
    numbers, after = count(), ""
    while groups := changed_groups(database, archive_id, FILES_JUDGED, after):
        after = list(groups)[-1]
        damaged = damaged_directories(database, archive_id, {f.directory for files in groups.values() for f in files})
        in_order = [
            Group(key, files, any(file.directory in damaged for file in files)) for key, files in groups.items()
        ]
        batches = list(_batches(in_order))
        for batch in batches:
            yield Groups(number=next(numbers), ends_page=batch is batches[-1], groups=batch)


def _batches(groups: Iterable[Group]) -> Iterator[list[Group]]:
    batch: list[Group] = []
    for group in groups:
        batch.append(group)
        if sum(len(each.files) for each in batch) >= FILES_A_TASK:
            yield batch
            batch = []
    if batch:
        yield batch


def _in_order(parts: Iterable[JudgedGroups]) -> Iterator[JudgedGroups]:
    waiting: dict[int, JudgedGroups] = {}
    wanted = 0
    for part in parts:
        waiting[part.number] = part
        while wanted in waiting:
            yield waiting.pop(wanted)
            wanted += 1
    assert not waiting, f"part {wanted} of what is judged never came"


def _judged(series: SeriesValues) -> JudgedSeries:
    return JudgedSeries(row=SeriesRow(**series.row), paths=series.paths)
