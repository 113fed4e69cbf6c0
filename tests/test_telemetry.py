"""What Prometheus is told of segmenting and of a training."""

import math
import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from vaeseg import records, telemetry
from vaeseg.telemetry import (
    IOU_KINDS,
    LOSS_PARTS,
    PIPELINE_METRICS,
    REGISTRY,
    STAGE_SECONDS,
    TRAINING_METRICS,
    Metric,
    write_to_registry,
)
from vaeseg.training.metrics import TrainingMetrics
from vaeseg.training.observing import EpochReport


def report(**changes: object) -> EpochReport:
    values: dict[str, object] = {
        "epoch": 2,
        "epochs": 7,
        "losses": {"loss": 0.5, "bce": 0.4},
        "dev": {"loss": 0.75, "iou_label": 0.25, "iou_subject": None},
        "learning_rate": 1e-3,
        "slices_per_second": 40.0,
        "best_epoch": 1,
    }
    return EpochReport(**{**values, **changes})  # type: ignore[arg-type]


def sample(name: str, **labels: str) -> float:
    value = REGISTRY.get_sample_value(name, labels)
    assert value is not None, name
    return value


def test_every_series_is_there_from_the_start() -> None:
    """Each metric has all its labels before anything happened, and its name follows the rule."""
    for metric in TRAINING_METRICS:
        assert re.fullmatch(r"vaeseg_training(_[a-z]+){2,3}", metric.name)
        name = metric.name + "_total" * (metric.kind == "counter")
        for value in metric.values or [""]:
            sample(name, **({metric.label: value} if metric.label else {}))


def test_every_series_of_segmenting_is_there_from_the_start() -> None:
    """Each outcome and each stage is 0 before anything happened."""
    for metric in PIPELINE_METRICS:
        name = metric.name + {"counter": "_total", "histogram": "_count"}[metric.kind]
        for value in metric.values or [""]:
            sample(name, **({metric.label: value} if metric.label else {}))


def test_outcomes_are_those_of_the_ledger() -> None:
    """Written down twice, since neither module may know the other."""
    assert telemetry.OUTCOMES == records.OUTCOMES


def test_a_histogram_counts_what_it_is_told() -> None:
    """In the bucket of its label."""
    before = sample("vaeseg_stage_duration_seconds_bucket", stage="commit", le="3.0")
    write_to_registry(STAGE_SECONDS, "commit", 2.0)
    assert sample("vaeseg_stage_duration_seconds_bucket", stage="commit", le="3.0") - before == 1
    assert sample("vaeseg_stage_duration_seconds_bucket", stage="commit", le="1.0") <= before


def test_an_epoch_sets_every_gauge() -> None:
    """Each figure lands under its name; one that is undefined is NaN."""
    TrainingMetrics().on_epoch(report())
    assert sample("vaeseg_training_epochs_finished") == 2
    assert sample("vaeseg_training_epochs_planned") == 7
    assert sample("vaeseg_training_loss_mean", part="bce") == 0.4
    assert sample("vaeseg_training_dev_loss_mean", part="loss") == 0.75
    assert sample("vaeseg_training_dev_iou_mean", kind="iou_label") == 0.25
    assert math.isnan(sample("vaeseg_training_dev_iou_mean", kind="iou_subject"))
    assert sample("vaeseg_training_learning_rate") == 1e-3
    assert sample("vaeseg_training_slices_per_second") == 40.0
    TrainingMetrics().on_epoch(report(dev={"iou_subject": 0.5}))
    assert sample("vaeseg_training_dev_iou_mean", kind="iou_subject") == 0.5


def test_steps_count_slices_over_epochs() -> None:
    """Steps tell how far the epoch is; the counter gains each slice once, and never falls."""
    before = sample("vaeseg_training_slices_trained_total")
    metrics = TrainingMetrics()
    for _ in range(2):
        for done in (10, 25, 30):
            metrics.on_step(done, 30, {"loss": 1.0 * done})
        metrics.on_epoch(report())
    metrics.on_step(30, 30, {"loss": 30.0})
    assert sample("vaeseg_training_slices_trained_total") - before == 90
    assert sample("vaeseg_training_loss_mean", part="loss") == 30.0


def test_slices_of_before_a_resume_are_not_counted_again() -> None:
    """A process that goes on at 20 of 30 counts what it has trained on itself, an epoch cut short included."""
    before = sample("vaeseg_training_slices_trained_total")
    metrics = TrainingMetrics()
    metrics.on_resume(20)
    metrics.on_step(25, 30, {"loss": 1.0})
    metrics.on_epoch(report())
    metrics.on_step(10, 30, {"loss": 1.0})
    assert sample("vaeseg_training_slices_trained_total") - before == 15


def test_another_receiver_gets_the_same() -> None:
    """Ray's workers mirror every write; the label is empty where a metric has none."""
    seen: list[tuple[Metric, str, float]] = []
    metrics = TrainingMetrics(lambda metric, label, value: seen.append((metric, label, value)))
    metrics.on_step(4, 8, {"loss": 2.0, "unheard_of": 1.0})
    metrics.on_epoch(report())
    assert {metric for metric, *_ in seen} == set(TRAINING_METRICS)
    assert {label for metric, label, _ in seen if metric.label} <= {*LOSS_PARTS, *IOU_KINDS}
    assert {label for metric, label, _ in seen if not metric.label} == {""}


@pytest.mark.parametrize("word", ["part=", "kind="])
def test_the_text_that_is_served_has_labels_from_closed_sets(word: str) -> None:
    """No other label ever appears."""
    served = generate_latest(REGISTRY).decode()
    values = set(re.findall(word + r'"(\w+)"', served))
    assert values == set(LOSS_PARTS if word == "part=" else IOU_KINDS)


def test_every_metric_is_documented() -> None:
    """docs/training.md lists exactly the metrics that there are, and every label."""
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(vaeseg_training_\w+)", text, flags=re.MULTILINE))
    assert documented == {metric.name + "_total" * (metric.kind == "counter") for metric in TRAINING_METRICS}
    assert all(f"`{value}`" in text for value in (*LOSS_PARTS, *IOU_KINDS))
