"""The three stages that workers run: read, segment, measure. No Ray in here; `batch` strings them together.

A stage never raises for what is wrong with one series: that becomes the row's failure. A process that dies takes its
row with it, which the driver notices. `write` is where what it measures goes: a figure or two a series.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vaeseg.config import Precision, ReadingConfig
from vaeseg.distributed.rows import (
    Failure,
    SeriesRow,
    failed_row,
    outcome_to_json,
    pack_mask,
    unpack_mask,
    unpack_slices,
)
from vaeseg.durable import fsync_directories
from vaeseg.errors import ReadingError, StoreError
from vaeseg.evaluation.lesions import measure_lesions
from vaeseg.evaluation.overlap import dice, iou
from vaeseg.evaluation.protocol import slice_ious
from vaeseg.geometry.orientation import axial_geometry, axial_order
from vaeseg.geometry.resample import (
    label_to_model_grid,
    mask_to_native,
    model_pixel_mm,
    model_pixel_of_voxel,
    to_model_grid,
)
from vaeseg.io.labels import LabelOnGrid, read_label_on_grid
from vaeseg.io.manifest import SeriesManifest
from vaeseg.io.masks import MASK_NAME, write_mask, write_preview
from vaeseg.io.parquet import encode_mask
from vaeseg.io.volume import read_volume
from vaeseg.logs import logged_with, set_up_worker_logging
from vaeseg.paths import any_path
from vaeseg.records import MM3_PER_ML, BoolArray, Overlap, Reason, SegmentedSeries, SliceRecord, VolumeGeometry
from vaeseg.telemetry import (
    FILES_READ_BYTES,
    GPU_BUSY_SECONDS,
    SEGMENT_BUSY_SECONDS,
    SLICES_SEGMENTED,
    STAGE_SECONDS,
    Write,
    write_to_registry,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What every worker needs to know; no password and no database."""

    run_id: str
    store_root: str
    model: str
    """Its name, where it comes with vaeseg and every node has its own, or its path."""
    model_digest: str
    image_size: int
    reading: ReadingConfig
    output_types: tuple[str, ...]
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int = 32
    precision: Precision = "auto"
    actors: tuple[int, int] | None = None
    """Fewest and most that segment; None: as many as the cluster has GPUs, or nodes."""
    organ: int | None = None
    """Label value that counts; None for the only one."""
    plan_until: datetime | None = None
    """From this moment on no series is begun."""


def read(row: SeriesRow, config: StageConfig, write: Write = write_to_registry) -> SeriesRow:
    """Decode a series and resample it to the model grid; after `plan_until`, postpone it."""
    if config.plan_until is not None and datetime.now(UTC) >= config.plan_until:
        return failed_row(row, Failure(reason="postponed", detail="", is_postponed=True))
    return _run_stage("read", row, config, lambda: _read(row, config, write), write)


def measure(row: SeriesRow, config: StageConfig, write: Write = write_to_registry) -> SeriesRow:
    """Carry the mask to the native grid, measure it, compare it with a label, and write its files."""
    return _run_stage("measure", row, config, lambda: _measure(row, config), write)


class Segment:
    """Model on its device, loaded once; turns slices into mask bits.

    Args:
        config: for the workers.
        write: where figures go.
        cores: how many passes at a time on a CPU, each with a thread; asked where the model is.
    """

    def __init__(
        self, config: StageConfig, write: Write = write_to_registry, cores: Callable[[], int | None] = lambda: None
    ) -> None:
        from vaeseg.inference.predictor import Predictor
        from vaeseg.models.checkpoint import load_checkpoint
        from vaeseg.models.files import resolve_model

        checkpoint = load_checkpoint(resolve_model(config.model))
        checkpoint.check_digest(config.model_digest)
        self._predictor = Predictor(checkpoint, config.device, config.batch_size, cores(), config.precision)
        logger.info("the model computes in %s, %s", self._predictor.computes_in, self._predictor.engine.form)
        self._config, self._size, self._write = config, config.image_size, write

    def __call__(self, row: SeriesRow) -> SeriesRow:
        """Segment one series; the image goes no further than here, but for what measuring needs."""
        return _run_stage("segment", row, self._config, lambda: self._segment(row), self._write)

    def _segment(self, row: SeriesRow) -> SeriesRow:
        started = time.perf_counter()
        slices = unpack_slices(row["slices"], self._size)
        mask = self._predictor.segment(slices)
        self._count(len(mask), time.perf_counter() - started)
        return SeriesRow(
            **{
                **row,
                "slices": b"",
                "mask_bits": pack_mask(mask),
                "hu_inside": slices[mask].tobytes(),
                "preview": slices[_fullest_slice(mask)].tobytes(),
                "segment_seconds": time.perf_counter() - started,
            }
        )

    def _count(self, n_slices: int, seconds: float) -> None:
        self._write(SLICES_SEGMENTED, "", n_slices)
        self._write(SEGMENT_BUSY_SECONDS, "", seconds)
        if self._predictor.device.type == "cuda":
            self._write(GPU_BUSY_SECONDS, "", seconds)


def _run_stage(
    name: str, row: SeriesRow, config: StageConfig, stage: Callable[[], SeriesRow], write: Write
) -> SeriesRow:
    """Run one stage of one series, and tell how long it took, whatever came of it."""
    if row["failure"]:
        return row
    set_up_worker_logging()
    started = time.perf_counter()
    with logged_with(run_id=config.run_id, series_instance_uid=row["series_instance_uid"]):
        result = _guarded(row, stage)
    write(STAGE_SECONDS, name, time.perf_counter() - started)
    return result


def _guarded(row: SeriesRow, stage: Callable[[], SeriesRow]) -> SeriesRow:
    """The boundary at which whatever goes wrong becomes a value."""
    try:
        return stage()
    except ReadingError as error:
        return failed_row(row, Failure(reason=str(error.reason), detail=error.detail))
    except StoreError as error:
        return failed_row(row, Failure(reason="store_error", detail=str(error), stops_run=True))
    except Exception as error:  # noqa: BLE001 - the per-series boundary: one bad series never stops a run
        logger.warning("internal error in work item %d: %s", row["work_item"], where(error))
        return failed_row(row, Failure(reason=str(Reason.INTERNAL_ERROR), detail=where(error)))


def where(error: Exception) -> str:
    """Type and place of an error; its message could quote a path or a header."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return f"{type(error).__name__}{place}"


def _read(row: SeriesRow, config: StageConfig, write: Write) -> SeriesRow:
    started = time.perf_counter()
    manifest = SeriesManifest.from_json(row["manifest"])
    die_after(config.reading.decode_timeout_seconds)
    try:
        volume = read_volume(any_path(row["root"]), manifest, config.reading)
    finally:
        signal.alarm(0)
    write(FILES_READ_BYTES, "", sum(file.size for file in manifest.files))
    geometry = volume.geometry
    axial = axial_order(geometry).to_axial(volume.volume_hu)
    slices = to_model_grid(axial, axial_geometry(geometry).spacing_mm, config.image_size)
    return SeriesRow(
        **{
            **row,
            "slices": slices.tobytes(),
            "warnings": json.dumps([str(warning) for warning in volume.warnings]),
            "read_seconds": time.perf_counter() - started,
        }
    )


def die_after(seconds: float) -> None:
    """A decoder stuck in C cannot be interrupted, only ended: the kernel kills this process when the alarm rings."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(max(1, int(seconds)))


def _measure(row: SeriesRow, config: StageConfig) -> SeriesRow:
    started = time.perf_counter()
    manifest = SeriesManifest.from_json(row["manifest"])
    geometry = manifest.geometry
    order, axial = axial_order(geometry), axial_geometry(geometry)
    model_mask = unpack_mask(row["mask_bits"], axial.shape[0], config.image_size)
    axial_mask = mask_to_native(model_mask, axial.shape, axial.spacing_mm)
    mask = np.ascontiguousarray(order.from_axial(axial_mask))
    lesions = measure_lesions(
        axial_mask,
        axial,
        _hu_inside(row, model_mask),
        *model_pixel_of_voxel(axial.shape, axial.spacing_mm, config.image_size),
    )
    label, label_reason, label_warnings = _label(row, geometry, config)
    mask_sha256 = _write_files(row, config, mask, model_mask, axial)
    outcome = SegmentedSeries(
        ref=manifest.ref,
        n_slices=geometry.shape[0],
        tumour_volume_ml=int(np.count_nonzero(mask)) * geometry.voxel_volume_mm3 / MM3_PER_ML,
        lesions=lesions,
        slices=_slice_records(mask, label, geometry),
        mask_uri=f"{row['mask_dir']}/{MASK_NAME}",
        mask_sha256=mask_sha256,
        mask_encoding=b"",
        mask_shape=geometry.shape,
        overlap=None if label is None else _overlap(mask, label, model_mask, order.to_axial(label), axial),
        label_reason=label_reason,
        warnings=(*json.loads(row["warnings"]), *label_warnings),
        read_seconds=row["read_seconds"],
        segment_seconds=row["segment_seconds"],
        measure_seconds=time.perf_counter() - started,
    )
    return SeriesRow(
        **{
            **row,
            "mask_bits": b"",
            "hu_inside": b"",
            "preview": b"",
            "outcome": outcome_to_json(outcome),
            "mask_encoding": encode_mask(mask),
        }
    )


def _hu_inside(row: SeriesRow, model_mask: BoolArray) -> npt.NDArray[np.int16]:
    """(K, S, S) int16: the image where the mask is, 0 elsewhere."""
    slices = np.zeros(model_mask.shape, dtype=np.int16)
    slices[model_mask] = np.frombuffer(row["hu_inside"], dtype=np.int16)
    return slices


def _label(
    row: SeriesRow, geometry: VolumeGeometry, config: StageConfig
) -> tuple[BoolArray | None, str | None, tuple[str, ...]]:
    """The label on the native grid; or why there is none; and what to know of it."""
    if not row["label"]:
        return None, None, ()
    try:
        label = read_label_on_grid(any_path(row["label"]), geometry, config.reading, config.organ)
        _check_one_value(label)
    except ReadingError as error:
        return None, f"{error.reason}: {error.detail}", ()
    return label.mask, None, tuple(str(warning) for warning in label.warnings)


def _check_one_value(label: LabelOnGrid) -> None:
    """Nobody said that tumour is the value that is not lungs; IoU with both would be an error that looks like one."""
    least, greatest = label.values
    if least != greatest:
        detail = f"label: values from {least} to {greatest}, expected one above 0: choose it with --organ"
        raise ReadingError(Reason.SEVERAL_LABEL_VALUES, detail)


def _write_files(
    row: SeriesRow, config: StageConfig, mask: BoolArray, model_mask: BoolArray, axial: VolumeGeometry
) -> str:
    directory = any_path(config.store_root) / row["mask_dir"]
    try:
        sha256 = write_mask(directory, mask, SeriesManifest.from_json(row["manifest"]).geometry)
        if "png" in config.output_types:
            outlined = model_mask[_fullest_slice(model_mask)]
            pixel_mm = model_pixel_mm(axial.shape, axial.spacing_mm, config.image_size)
            write_preview(directory, unpack_slices(row["preview"], config.image_size)[0], outlined, pixel_mm)
        fsync_directories(directory, any_path(config.store_root))  # 11 ms on ext4, beside 150 for the mask
    except OSError as error:
        raise StoreError(f"cannot write masks to the store: {error.strerror}; free space and submit again") from error
    return sha256


def _fullest_slice(mask: BoolArray) -> int:
    """The one that a preview shows; of an empty mask, the middle."""
    return int(mask.sum(axis=(1, 2)).argmax()) if mask.any() else len(mask) // 2


def _slice_records(mask: BoolArray, label: BoolArray | None, geometry: VolumeGeometry) -> tuple[SliceRecord, ...]:
    areas = np.array([np.count_nonzero(plane) for plane in mask]) * geometry.pixel_area_mm2
    ious = np.full(len(mask), np.nan) if label is None else slice_ious(mask, label)
    return tuple(
        SliceRecord(slice_index=k, tumour_area_mm2=float(area), iou=_measured(float(value)))
        for k, (area, value) in enumerate(zip(areas, ious, strict=True))
    )


def _overlap(
    mask: BoolArray, label: BoolArray, model_mask: BoolArray, axial_label: BoolArray, axial: VolumeGeometry
) -> Overlap:
    model_label = label_to_model_grid(axial_label, axial.spacing_mm, model_mask.shape[-1])
    return Overlap(
        iou=_measured(iou(mask, label)),
        dice=_measured(dice(mask, label)),
        iou_model_grid=_measured(iou(model_mask, model_label)),
        dice_model_grid=_measured(dice(model_mask, model_label)),
    )


def _measured(value: float) -> float | None:
    """NaN means that nothing was there to be measured."""
    return None if np.isnan(value) else value
