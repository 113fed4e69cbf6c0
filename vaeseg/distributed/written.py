"""Which finding each row of the findings in Parquet is of.

A row keeps study and subject's key of its time, and SQL has those that the series has now. Nothing here knows Ray.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vaeseg.db.audit import findings_of_run
from vaeseg.db.parts import recorded_parts
from vaeseg.db.session import Database
from vaeseg.io.parts import read_recorded
from vaeseg.io.store import Store
from vaeseg.records import PartFile

IDENTITY = ("series_instance_uid", "outcome", "mask_uri")
"""Of a finding among those of its part, and never changed; several volumes of one series UID may have failed alike."""
OF_ITS_TIME = ("study_instance_uid", "subject_key")
"""What may have been corrected since, and tells such volumes apart where it was not."""


class WrittenFinding(NamedTuple):
    """A row of a findings file."""

    finding_id: int | None
    """None where SQL has no such finding: an erasure by an older version left the row behind."""
    subject_key: str | None
    """Of its time."""


def written_findings(store: Store, database: Database) -> Iterator[tuple[PartFile, list[WrittenFinding]]]:
    """Every findings file that is in its place, with all of its rows in order.

    Raises:
        StoreError: a file is not what was recorded, or cannot be read.
    """
    for run_id in sorted({part.run_id for part, _ in recorded_parts(database)}):
        recorded = recorded_parts(database, run_id)  # before the findings: no file is known before what is in it
        findings = findings_of_run(database, run_id, ("id", *IDENTITY, *OF_ITS_TIME))
        for part, is_published in recorded:
            if part.dataset == "findings" and is_published:
                rows = read_recorded(store, part, (*IDENTITY, *OF_ITS_TIME))
                ids = _finding_of_each(rows, findings.get(part.name, []))
                yield part, [WrittenFinding(ids.get(number), row[-1]) for number, row in enumerate(rows)]


def _finding_of_each(rows: Sequence[tuple[Any, ...]], findings: Sequence[tuple[Any, ...]]) -> dict[int, int]:
    """Number of a row to id of its finding: of those that are alike one of the same study and key, else the first."""
    found: dict[int, int] = {}
    for width in range(len(IDENTITY) + len(OF_ITS_TIME), len(IDENTITY) - 1, -1):
        taken = set(found.values())
        waiting: dict[tuple[Any, ...], deque[int]] = defaultdict(deque)
        for finding_id, *values in findings:
            if finding_id not in taken:
                waiting[tuple(values[:width])].append(finding_id)
        for number, row in enumerate(rows):
            if number not in found and waiting[row[:width]]:
                found[number] = waiting[row[:width]].popleft()
    return found
