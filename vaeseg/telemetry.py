"""Every Prometheus metric of vaeseg, in one file.

Names are ``vaeseg_<noun>_<verb>_<unit|total>``. Labels come from small closed sets and are created beforehand, so
that a counter that never moved is 0 and not absent; a label is never a UID, a path or a run id. What the exporter
serves has names of archives and schedules, which operators chose, as labels. A gauge of something that has not been
measured is NaN, not 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

OUTCOMES = ("segmented", "skipped", "failed", "crashed")
STAGES = ("read", "segment", "measure", "commit")

REGISTRY = CollectorRegistry()
"""Our own registry: importing vaeseg adds nothing to the process-wide one."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, for whoever serves it: prometheus_client here, or Ray for its workers."""

    name: str
    """Without the `_total` that both add to a counter."""
    description: str
    kind: Literal["counter", "gauge", "histogram"]
    label: str = ""
    """Name of its only label, or none."""
    values: tuple[str, ...] = ()
    """Every value of that label."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets."""


Write = Callable[[Metric, str, float], None]
"""Takes a metric, the value of its label ("" without one) and a number.

A counter is raised by it, a gauge is set to it, a histogram counts it."""

STAGE_SECONDS = Metric(
    name="vaeseg_stage_duration_seconds",
    description="Time that a series, or at commit a group of series, spent in a stage",
    kind="histogram",
    label="stage",
    values=STAGES,
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300),
)
SERIES_FINISHED = Metric(
    name="vaeseg_series_finished",
    description="Series that are committed, by outcome",
    kind="counter",
    label="outcome",
    values=OUTCOMES,
)
SLICES_SEGMENTED = Metric(name="vaeseg_slices_segmented", description="Slices that got a mask", kind="counter")
FILES_READ_BYTES = Metric(
    name="vaeseg_files_read_bytes", description="Bytes of image files of series that were read", kind="counter"
)
FILES_REFUSED = Metric(name="vaeseg_files_refused", description="Files found that are in no series", kind="counter")
SEGMENT_BUSY_SECONDS = Metric(
    name="vaeseg_segment_busy_seconds", description="Time that models spent on slices, on any device", kind="counter"
)
GPU_BUSY_SECONDS = Metric(
    name="vaeseg_gpu_busy_seconds", description="Time that models spent on slices, on a CUDA device", kind="counter"
)
PIPELINE_METRICS = (
    STAGE_SECONDS,
    SERIES_FINISHED,
    SLICES_SEGMENTED,
    FILES_READ_BYTES,
    FILES_REFUSED,
    SEGMENT_BUSY_SECONDS,
    GPU_BUSY_SECONDS,
)
"""All of segmenting; Ray serves them."""

LOSS_PARTS = ("loss", "reconstruction", "bce", "kl", "total", "mse", "dice")
"""Losses of either stage."""
IOU_KINDS = ("iou_label_or_prediction", "iou_label", "iou_subject")
"""Means of IoU on the dev part."""


SLICES_TRAINED = Metric(
    name="vaeseg_training_slices_trained", description="Slices trained on, over all epochs", kind="counter"
)
EPOCHS_FINISHED = Metric(
    name="vaeseg_training_epochs_finished", description="Epochs of this training that are done", kind="gauge"
)
EPOCHS_PLANNED = Metric(
    name="vaeseg_training_epochs_planned", description="Epochs that this training has at most", kind="gauge"
)
LOSS = Metric(
    name="vaeseg_training_loss_mean",
    description="Losses of this epoch so far, mean over slices; bce, reconstruction, kl and total in nats a pixel",
    kind="gauge",
    label="part",
    values=LOSS_PARTS,
)
DEV_LOSS = Metric(
    name="vaeseg_training_dev_loss_mean",
    description="Losses on the dev part after the last epoch, mean over slices",
    kind="gauge",
    label="part",
    values=LOSS_PARTS,
)
DEV_IOU = Metric(
    name="vaeseg_training_dev_iou_mean",
    description="IoU on the dev part after the last epoch",
    kind="gauge",
    label="kind",
    values=IOU_KINDS,
)
LEARNING_RATE = Metric(
    name="vaeseg_training_learning_rate", description="Learning rate at the end of the last epoch", kind="gauge"
)
TRAINING_SPEED = Metric(
    name="vaeseg_training_slices_per_second",
    description="Slices trained on a second in the last epoch, evaluation not counted",
    kind="gauge",
)
TRAINING_METRICS = (
    SLICES_TRAINED,
    EPOCHS_FINISHED,
    EPOCHS_PLANNED,
    LOSS,
    DEV_LOSS,
    DEV_IOU,
    LEARNING_RATE,
    TRAINING_SPEED,
)
"""All of them."""


def _registered(metric: Metric) -> Counter | Gauge | Histogram:
    """The metric in our registry; counters start at 0, gauges at NaN."""
    labels = [metric.label] if metric.label else []
    made: Counter | Gauge | Histogram
    if metric.kind == "histogram":
        made = Histogram(metric.name, metric.description, labels, buckets=metric.buckets, registry=REGISTRY)
    else:
        make = Counter if metric.kind == "counter" else Gauge
        made = make(metric.name, metric.description, labels, registry=REGISTRY)
    children = [made.labels(value) for value in metric.values] or [made]
    for child in children:
        if isinstance(child, Gauge):
            child.set(float("nan"))
    return made


_REGISTERED = {metric.name: _registered(metric) for metric in (*PIPELINE_METRICS, *TRAINING_METRICS)}


def write_to_registry(metric: Metric, label: str, value: float) -> None:
    """A `Write` to `REGISTRY`."""
    registered = _REGISTERED[metric.name]
    child = registered.labels(label) if metric.label else registered
    match child:
        case Counter():
            child.inc(value)
        case Gauge():
            child.set(value)
        case Histogram():
            child.observe(value)


@dataclass(frozen=True)
class LedgerMetric:
    """A gauge of the database, as the exporter serves it."""

    name: str
    description: str
    labels: tuple[str, ...] = ()


DATABASE_UP = LedgerMetric("vaeseg_database_up", "1 when the last collection worked, else 0")
COLLECTION_SECONDS = LedgerMetric("vaeseg_collection_duration_seconds", "Time that the last collection took")
COLLECTION_FINISHED = LedgerMetric(
    "vaeseg_collection_finished_timestamp_seconds", "When the oldest number was collected"
)
BUILD_INFO = LedgerMetric("vaeseg_build_info", "Always 1; the version of the exporter", ("version",))
LARGE_THRESHOLD = LedgerMetric("vaeseg_findings_large_threshold_ml", "Volume above which a finding counts as large")

_SERIES = ("archive", "category")
SERIES_CURRENT = LedgerMetric("vaeseg_series_current", "Series that are there, each in one category", _SERIES)
SERIES_UNMEASURED = LedgerMetric(
    "vaeseg_series_unmeasured", "Series that were refused, failed or crashed", (*_SERIES, "reason")
)
BACKLOG = LedgerMetric("vaeseg_backlog_series", "Series that are pending", ("archive",))
BACKLOG_AGE = LedgerMetric(
    "vaeseg_backlog_oldest_age_seconds", "Since the pending series that was found first was found", ("archive",)
)
FINDINGS_LARGE = LedgerMetric("vaeseg_findings_large", "Current findings above the threshold", ("archive",))

_RUN = ("archive", "kind")
RUNS_ACTIVE = LedgerMetric("vaeseg_runs_active", "Runs that have not ended", (*_RUN, "status"))
RUN_DONE = LedgerMetric("vaeseg_run_series_done", "Series with an outcome, of the run in progress", _RUN)
RUN_PLANNED = LedgerMetric("vaeseg_run_series_planned", "Series planned, of the run in progress", _RUN)
RUN_FAILED = LedgerMetric("vaeseg_run_series_failed", "Series that failed or crashed, of the run in progress", _RUN)
RUN_SLICES = LedgerMetric("vaeseg_run_slices_segmented", "Slices that got a mask, of the run in progress", _RUN)
RUN_RATIO = LedgerMetric("vaeseg_run_progress_ratio", "Done through planned, of the run in progress", _RUN)
RUN_ETA = LedgerMetric("vaeseg_run_eta_seconds", "Until nothing is pending, at the rate of this attempt so far", _RUN)
LAST_FINISHED = LedgerMetric("vaeseg_run_last_finished_timestamp_seconds", "End of the last run that ended well", _RUN)
LAST_SECONDS = LedgerMetric("vaeseg_run_last_duration_seconds", "Of the last run that finished", _RUN)
LAST_SERIES = LedgerMetric("vaeseg_run_last_series", "Series of the last run that finished", (*_RUN, "outcome"))
LAST_FAILED_RATIO = LedgerMetric(
    "vaeseg_run_last_failed_ratio", "Failed and crashed through all series of the last run that finished", _RUN
)

_SCHEDULE = ("schedule", "archive")
SCHEDULE_DUE = LedgerMetric(
    "vaeseg_schedule_due_timestamp_seconds", "The latest planned time that lies in the past", _SCHEDULE
)
SCHEDULE_STARTED = LedgerMetric("vaeseg_schedule_started_timestamp_seconds", "Start of its last run", _SCHEDULE)
SCHEDULE_SUCCESS = LedgerMetric(
    "vaeseg_schedule_last_success_timestamp_seconds", "End of the newest run that did its work", _SCHEDULE
)
SCHEDULE_WINDOW_END = LedgerMetric(
    "vaeseg_schedule_window_end_timestamp_seconds", "End of the window of the latest planned time", _SCHEDULE
)
SCHEDULE_RUNNING = LedgerMetric("vaeseg_schedule_running", "1 while its last run is running or submitted", _SCHEDULE)

LEASE_HELD = LedgerMetric("vaeseg_lease_held", "1 while a run has the archive", ("archive",))
LEASE_AGE = LedgerMetric(
    "vaeseg_lease_heartbeat_age_seconds", "Since that run was last heard of, at the collection", ("archive",)
)

LEDGER_METRICS = (
    DATABASE_UP,
    COLLECTION_SECONDS,
    COLLECTION_FINISHED,
    BUILD_INFO,
    LARGE_THRESHOLD,
    SERIES_CURRENT,
    SERIES_UNMEASURED,
    BACKLOG,
    BACKLOG_AGE,
    FINDINGS_LARGE,
    RUNS_ACTIVE,
    RUN_DONE,
    RUN_PLANNED,
    RUN_FAILED,
    RUN_SLICES,
    RUN_RATIO,
    RUN_ETA,
    LAST_FINISHED,
    LAST_SECONDS,
    LAST_SERIES,
    LAST_FAILED_RATIO,
    SCHEDULE_DUE,
    SCHEDULE_STARTED,
    SCHEDULE_SUCCESS,
    SCHEDULE_WINDOW_END,
    SCHEDULE_RUNNING,
    LEASE_HELD,
    LEASE_AGE,
)
"""All of them."""
