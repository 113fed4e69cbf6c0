"""A worker's training metrics on their way to Prometheus: Ray serves them from each node, as `ray_vaeseg_...`."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from vaeseg.telemetry import TRAINING_METRICS, TrainingMetric, TrainingMetrics


def ray_training_metrics() -> TrainingMetrics:
    """Metrics that write to Ray; call it once in a worker process."""
    made = {metric.name: _made(metric) for metric in TRAINING_METRICS}

    def write(metric: TrainingMetric, label: str, value: float) -> None:
        tags = {metric.label: label} if metric.label else {}
        target = made[metric.name]
        if isinstance(target, Gauge):
            target.set(value, tags=tags)
        elif value > 0:  # Ray refuses to add nothing
            target.inc(value, tags=tags)

    return TrainingMetrics(write)


def _made(metric: TrainingMetric) -> Counter | Gauge:
    make = Counter if metric.kind == "counter" else Gauge
    return make(metric.name, metric.description, (metric.label,) if metric.label else ())
