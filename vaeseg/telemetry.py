"""Every Prometheus metric of vaeseg, in one file.

Names are ``vaeseg_<noun>_<verb>_<unit|total>``. Labels come from small closed sets and are created beforehand, so
that a counter that never moved is 0 and not absent; a label is never a UID, a path or a run id.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

OUTCOMES = ("segmented", "skipped", "failed", "crashed")
STAGES = ("read", "segment", "measure", "commit")

REGISTRY = CollectorRegistry()
"""Our own registry: importing vaeseg adds nothing to the process-wide one."""

SERIES_FINISHED = Counter("vaeseg_series_finished_total", "Series with an outcome", ["outcome"], registry=REGISTRY)
SLICES_SEGMENTED = Counter("vaeseg_slices_segmented_total", "Slices that got a mask", registry=REGISTRY)
FILES_REFUSED = Counter("vaeseg_files_refused_total", "Files found that are in no series", registry=REGISTRY)
STAGE_SECONDS = Histogram(
    "vaeseg_stage_duration_seconds",
    "Time a series spent in a stage",
    ["stage"],
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300),
    registry=REGISTRY,
)

for _outcome in OUTCOMES:
    SERIES_FINISHED.labels(_outcome)
for _stage in STAGES:
    STAGE_SECONDS.labels(_stage)
