"""What stages and the driver tell of themselves, and that telling it never costs a series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaeseg.config import ReadingConfig
from vaeseg.distributed import worker_metrics
from vaeseg.distributed.measuring import measure
from vaeseg.distributed.reading import read
from vaeseg.distributed.rows import SeriesRow, failure_of, planned_row
from vaeseg.distributed.segmenting import Segment
from vaeseg.distributed.stage import StageConfig
from vaeseg.distributed.worker_metrics import write_to_ray
from vaeseg.io.archive import scan_archive
from vaeseg.io.nifti import write_nifti
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.models.files import resolve_model
from vaeseg.records import VolumeGeometry
from vaeseg.telemetry import (
    FILES_READ_BYTES,
    GPU_BUSY_SECONDS,
    SEGMENT_BUSY_SECONDS,
    SERIES_FINISHED,
    SLICES_SEGMENTED,
    STAGE_SECONDS,
    Metric,
)

SHAPE = (2, 16, 16)
SIZE = 256

Written = list[tuple[Metric, str, float]]


def planned(directory: Path) -> SeriesRow:
    """Two slices of air, and a voxel of water, in one NIfTI file."""
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1.0]])
    air = np.full(SHAPE, -1000, dtype=np.int16)
    air[0, 0, 0] = 0
    (directory / "study").mkdir()
    write_nifti(directory / "study" / "case.nii.gz", air, VolumeGeometry(shape=SHAPE, lps_from_kji=affine))
    (verdict,) = scan_archive(directory / "study", ReadingConfig()).verdicts
    assert verdict.manifest is not None
    return planned_row(7, verdict.manifest, str(directory / "study"), "", "masks/s/x/model")


def config(directory: Path) -> StageConfig:
    return StageConfig(
        run_id="",
        store_root=str(directory / "store"),
        model="phantom-v1",
        model_digest=load_checkpoint(resolve_model("phantom-v1")).digest,
        image_size=SIZE,
        reading=ReadingConfig(),
        output_types=("nifti",),
        device="cpu",
    )


def receiver() -> tuple[Written, Any]:
    written: Written = []
    return written, lambda *figure: written.append(figure)


@pytest.fixture
def broken_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray whose metrics all fail."""

    def broken(_metric: Metric) -> None:
        raise RuntimeError("the agent is gone")

    monkeypatch.setattr(worker_metrics, "_made", broken)


def test_a_series_tells_its_time_its_slices_and_its_bytes(tmp_path: Path) -> None:
    """A figure or two a stage; on a CPU the GPU's time is not counted."""
    row, (written, write) = planned(tmp_path), receiver()
    measure(Segment(config(tmp_path), write)(read(row, config(tmp_path), write)), config(tmp_path), write)
    assert [(metric, label) for metric, label, _ in written] == [
        (FILES_READ_BYTES, ""),
        (STAGE_SECONDS, "read"),
        (SLICES_SEGMENTED, ""),
        (SEGMENT_BUSY_SECONDS, ""),
        (STAGE_SECONDS, "segment"),
        (STAGE_SECONDS, "measure"),
    ]
    figures = {(metric.name, label): value for metric, label, value in written}
    assert figures["vaeseg_files_read_bytes", ""] == (tmp_path / "study" / "case.nii.gz").stat().st_size
    assert figures["vaeseg_slices_segmented", ""] == SHAPE[0]
    assert 0 < figures["vaeseg_segment_busy_seconds", ""] <= figures["vaeseg_stage_duration_seconds", "segment"] < 60


def test_time_on_a_gpu_is_counted_twice(tmp_path: Path) -> None:
    """As time on any device, and as the GPU's."""
    written, write = receiver()
    segment = Segment(config(tmp_path), write)
    segment.predictor.device = type("Device", (), {"type": "cuda"})()
    segment._count(3, 1.5)
    assert written == [(SLICES_SEGMENTED, "", 3), (SEGMENT_BUSY_SECONDS, "", 1.5), (GPU_BUSY_SECONDS, "", 1.5)]


def test_a_failure_takes_time_but_counts_nothing(tmp_path: Path) -> None:
    """And the stages after it tell nothing of a series that they did not have."""
    row, (written, write) = planned(tmp_path), receiver()
    (tmp_path / "study" / "case.nii.gz").unlink()
    failed = measure(read(row, config(tmp_path), write), config(tmp_path), write)
    assert failure_of(failed) is not None
    assert [(metric, label) for metric, label, _ in written] == [(STAGE_SECONDS, "read")]


@pytest.mark.usefixtures("broken_ray")
def test_a_metric_that_fails_costs_no_series(tmp_path: Path) -> None:
    """Whatever Ray's metrics raise, the row goes on as if nothing had been."""
    for metric in (STAGE_SECONDS, SERIES_FINISHED, SLICES_SEGMENTED):
        write_to_ray(metric, metric.values[0] if metric.values else "", 1.0)
    row = read(planned(tmp_path), config(tmp_path), write_to_ray)
    assert failure_of(row) is None
    assert row["slices"]


def test_a_metric_without_a_ray_is_let_go() -> None:
    """A driver that has not started Ray yet counts nothing, and goes on; nothing is added where nothing is to add."""
    write_to_ray(SERIES_FINISHED, "skipped", 2)
    write_to_ray(SERIES_FINISHED, "failed", 0)
