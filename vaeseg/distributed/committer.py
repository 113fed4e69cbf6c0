"""Gathering outcomes into groups, one Parquet part and one transaction each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from vaeseg.config import RunConfig
from vaeseg.db.session import Database
from vaeseg.db.summaries import Progress
from vaeseg.db.work import WorkItem
from vaeseg.distributed.commit import commit_group, mark_crashed
from vaeseg.distributed.report import ProgressCallback, RunReport
from vaeseg.io.store import Store
from vaeseg.records import FailedSeries, SegmentedSeries, SeriesOutcome, SkippedSeries
from vaeseg.telemetry import SERIES_FINISHED, STAGE_SECONDS, Write


class Committer:
    """Gathers outcomes into groups, commits each group, and counts."""

    def __init__(
        self,
        database: Database,
        store: Store,
        run_id: str,
        config: RunConfig,
        report: RunReport,
        total: int,
        on_progress: ProgressCallback,
        write: Write,
    ) -> None:
        self._database, self._store, self._run_id = database, store, run_id
        self._config, self._report, self._total, self._on_progress = config, report, total, on_progress
        self._write = write
        self._group: list[tuple[WorkItem, SeriesOutcome]] = []
        self._last_commit = time.monotonic()
        self.n_done = 0
        """Series whose end is committed."""

    def add(self, item: WorkItem, outcome: SeriesOutcome) -> None:
        """Take one outcome; commit if the group is full or has waited long enough."""
        self._group.append((item, outcome))
        self._count(outcome)
        waited = time.monotonic() - self._last_commit
        if len(self._group) >= self._config.commit_every or waited >= self._config.commit_seconds:
            self.flush()

    def crashed(self, items: Sequence[WorkItem]) -> None:
        """Record series whose process died."""
        if items:
            mark_crashed(self._run_id, items, self._store, self._database)
            self._report.outcomes["crashed"] += len(items)
            self._show({"crashed": len(items)})

    def flush(self) -> None:
        """Commit what has been gathered."""
        group, self._group = self._group, []
        if group:
            started = time.perf_counter()
            commit_group(self._run_id, group, self._store, self._database)
            self._write(STAGE_SECONDS, "commit", time.perf_counter() - started)
            self._show(Counter(outcome_name(outcome) for _, outcome in group))
        self._last_commit = time.monotonic()

    def _count(self, outcome: SeriesOutcome) -> None:
        self._report.outcomes[outcome_name(outcome)] += 1
        if isinstance(outcome, SegmentedSeries):
            self._report.n_slices += outcome.n_slices

    def _show(self, committed: Mapping[str, int]) -> None:
        """Tell of series that are committed, how many by outcome."""
        for outcome, n_series in committed.items():
            self._write(SERIES_FINISHED, outcome, n_series)
        self.n_done += sum(committed.values())
        outcomes = self._report.outcomes
        self._on_progress(
            Progress(
                series_done=self.n_done,
                series_total=self._total,
                slices_done=self._report.n_slices,
                failures=outcomes["failed"] + outcomes["crashed"],
            )
        )


def outcome_name(outcome: SeriesOutcome) -> str:
    """As the findings table names it."""
    match outcome:
        case SegmentedSeries():
            return "segmented"
        case SkippedSeries():
            return "skipped"
        case FailedSeries():
            return "crashed" if outcome.crashed else "failed"
