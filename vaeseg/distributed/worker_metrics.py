"""Metrics of workers and drivers on their way to Prometheus: Ray serves them from each node, as `ray_vaeseg_...`.

What is counted in a process goes to its node every few seconds, and is served there for as long as the process lives.
"""

from __future__ import annotations

import logging
from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

from vaeseg.telemetry import Metric
from vaeseg.training.metrics import TrainingMetrics

logger = logging.getLogger(__name__)


def ray_training_metrics() -> TrainingMetrics:
    """Metrics of a training that write to Ray."""
    return TrainingMetrics(write_to_ray)


def write_to_ray(metric: Metric, label: str, value: float) -> None:
    """A `telemetry.Write` to Ray; a metric that cannot be written is let go, since no series is worth less."""
    try:
        _write(metric, {metric.label: label} if metric.label else {}, value)
    except Exception as error:  # noqa: BLE001 - whatever Ray's metrics do, the work that they count goes on
        logger.debug("metric %s was not written: %s", metric.name, type(error).__name__)


def _write(metric: Metric, tags: dict[str, str], value: float) -> None:
    match _made(metric):
        case Gauge() as gauge:
            gauge.set(value, tags=tags)
        case Histogram() as histogram:
            histogram.observe(value, tags=tags)
        case counter:
            if value > 0:  # Ray refuses to add nothing
                counter.inc(value, tags=tags)


@cache
def _made(metric: Metric) -> Counter | Gauge | Histogram:
    """Made once in each process."""
    tags = (metric.label,) if metric.label else ()
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.description, list(metric.buckets), tags)
    return (Counter if metric.kind == "counter" else Gauge)(metric.name, metric.description, tags)
