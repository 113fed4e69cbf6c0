"""Judging what the files of changed groups make: the driver fetches and records, and tasks judge where there is much.

What is recorded does not depend on which task was done first: parts are put in the order in which they were given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from vaeseg.config import ReadingConfig
from vaeseg.db.index_files import changed_groups, damaged_directories
from vaeseg.db.index_series import JudgedSeries, SeriesRow, record_groups
from vaeseg.db.session import Database
from vaeseg.distributed.index_tasks import judge_groups
from vaeseg.distributed.spread import here_at_first
from vaeseg.paths import AnyPath
from vaeseg.records import IndexedFile

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
        judged |= {group: list(map(_judged, series)) for group, series in part.groups.items()}
        if part.ends_page:
            record_groups(database, archive_id, judged)
            n_judged, judged = n_judged + len(judged), {}
    return n_judged


class _Part(NamedTuple):
    number: int
    ends_page: bool
    """Whether what was fetched at once ends here."""
    groups: dict[str, list[dict[str, Any]]]


def _items(database: Database, archive_id: int) -> Iterator[str]:
    """For `judge_groups`, fetched as they are asked for."""
    numbers, after = count(), ""
    while groups := changed_groups(database, archive_id, FILES_JUDGED, after):
        after = list(groups)[-1]
        damaged = damaged_directories(database, archive_id, {f.directory for files in groups.values() for f in files})
        batches = list(_batches(groups.values()))
        for batch in batches:
            given = [
                {
                    "files": [vars(file) for file in files],
                    "is_beside_damage": any(file.directory in damaged for file in files),
                }
                for files in batch
            ]
            yield json.dumps({"number": next(numbers), "ends_page": batch is batches[-1], "groups": given})


def _batches(groups: Iterable[Sequence[IndexedFile]]) -> Iterator[list[Sequence[IndexedFile]]]:
    batch: list[Sequence[IndexedFile]] = []
    for files in groups:
        batch.append(files)
        if sum(map(len, batch)) >= FILES_A_TASK:
            yield batch
            batch = []
    if batch:
        yield batch


def _in_order(texts: Iterable[str]) -> Iterator[_Part]:
    waiting: dict[int, _Part] = {}
    wanted = 0
    for text in texts:
        part = _Part(**json.loads(text))
        waiting[part.number] = part
        while wanted in waiting:
            yield waiting.pop(wanted)
            wanted += 1
    assert not waiting, f"part {wanted} of what is judged never came"


def _judged(series: dict[str, Any]) -> JudgedSeries:
    values = series["row"]
    row = SeriesRow(
        **values
        | {
            "study_date": values["study_date"] and date.fromisoformat(values["study_date"]),
            "warnings": tuple(values["warnings"]),
            "spacing_mm": values["spacing_mm"] and tuple(values["spacing_mm"]),
        }
    )
    return JudgedSeries(row=row, paths=tuple(series["paths"]))
