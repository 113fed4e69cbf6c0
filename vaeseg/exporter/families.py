"""Families of metrics of what was seen last, made anew for each scrape: what is gone from the database is gone here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

import vaeseg
from vaeseg import telemetry
from vaeseg.db.watch import Snapshot
from vaeseg.db.watch_runs import EndedRun, RunInProgress
from vaeseg.db.watch_schedules import ScheduleState
from vaeseg.db.watch_series import ArchiveSeries
from vaeseg.exporter.watcher import Watcher
from vaeseg.telemetry import LedgerMetric

NAN = float("nan")

Samples = Iterable[tuple[LedgerMetric, tuple[str, ...], float]]
"""Metric, values of its labels, and value."""


def exporter_registry(watcher: Watcher) -> CollectorRegistry:
    """A registry whose collection is what a watcher saw last."""
    registry = CollectorRegistry()
    registry.register(LedgerCollector(watcher))
    return registry


class LedgerCollector(Collector):
    """Families of what a watcher saw last; asks no database."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Those that have a sample."""
        families = {family.name: family for family in self.describe()}
        for metric, labels, value in _samples(self._watcher):
            families[metric.name].add_metric(labels, value)
        return (family for family in families.values() if family.samples)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """All that there can be, without samples."""
        for metric in telemetry.LEDGER_METRICS:
            yield GaugeMetricFamily(metric.name, metric.description, labels=metric.labels)


def _samples(watcher: Watcher) -> Samples:
    seen = watcher.seen
    yield telemetry.DATABASE_UP, (), float(seen.snapshot is not None)
    yield telemetry.COLLECTION_SECONDS, (), seen.seconds
    yield telemetry.COLLECTION_FINISHED, (), seen.finished_at
    yield telemetry.BUILD_INFO, (vaeseg.__version__,), 1.0
    yield telemetry.LARGE_THRESHOLD, (), watcher.volume_threshold_ml
    if seen.snapshot is not None:
        yield from _of_snapshot(seen.snapshot)


def _of_snapshot(snapshot: Snapshot) -> Samples:
    for series in snapshot.counts.series:
        yield from _of_series(series, snapshot.counts.taken_at)
    for labels, count in snapshot.active.items():
        yield telemetry.RUNS_ACTIVE, labels, count
    for run in snapshot.in_progress:
        yield from _of_run(run)
    for ended in snapshot.counts.ended:
        yield from _of_ended(ended)
    for schedule in snapshot.schedules:
        yield from _of_schedule(schedule)
    for archive, heartbeat_at in snapshot.leases.items():
        yield telemetry.LEASE_HELD, (archive,), float(heartbeat_at is not None)
        yield telemetry.LEASE_AGE, (archive,), _age(heartbeat_at, snapshot.taken_at)


def _of_series(series: ArchiveSeries, taken_at: datetime) -> Samples:
    for category, count in series.by_category.items():
        yield telemetry.SERIES_CURRENT, (series.archive, category), count
    for (category, reason), count in series.unmeasured.items():
        yield telemetry.SERIES_UNMEASURED, (series.archive, category, reason), count
    yield telemetry.BACKLOG, (series.archive,), series.by_category["pending"]
    yield telemetry.BACKLOG_AGE, (series.archive,), _age(series.oldest_pending_at, taken_at)
    yield telemetry.FINDINGS_LARGE, (series.archive,), series.n_large


def _of_run(run: RunInProgress) -> Samples:
    labels, progress = (run.archive, run.kind), run.progress
    yield telemetry.RUN_DONE, labels, progress.series_done
    yield telemetry.RUN_PLANNED, labels, progress.series_total
    yield telemetry.RUN_FAILED, labels, progress.failures
    yield telemetry.RUN_SLICES, labels, progress.slices_done
    yield telemetry.RUN_RATIO, labels, _ratio(progress.series_done, progress.series_total)
    yield telemetry.RUN_ETA, labels, run.eta_seconds


def _of_ended(run: EndedRun) -> Samples:
    labels = (run.archive, run.kind)
    yield telemetry.LAST_FINISHED, labels, run.finished_at.timestamp()
    if run.finished is None:
        return
    outcomes = run.finished.outcomes
    yield telemetry.LAST_SECONDS, labels, run.finished.seconds
    for outcome, count in outcomes.items():
        yield telemetry.LAST_SERIES, (*labels, outcome), count
    yield telemetry.LAST_FAILED_RATIO, labels, _ratio(outcomes["failed"] + outcomes["crashed"], sum(outcomes.values()))


def _of_schedule(state: ScheduleState) -> Samples:
    labels = (state.schedule, state.archive)
    yield telemetry.SCHEDULE_DUE, labels, _timestamp(state.due_at)
    yield telemetry.SCHEDULE_STARTED, labels, _timestamp(state.started_at)
    yield telemetry.SCHEDULE_SUCCESS, labels, _timestamp(state.succeeded_at)
    yield telemetry.SCHEDULE_WINDOW_END, labels, _timestamp(state.window_ends_at)
    yield telemetry.SCHEDULE_RUNNING, labels, float(state.is_running)


def _timestamp(moment: datetime | None) -> float:
    return NAN if moment is None else moment.timestamp()


def _age(since: datetime | None, now: datetime) -> float:
    return NAN if since is None else (now - since).total_seconds()


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else NAN
