"""The last stage: a mask, from the model grid to the files and figures of its series."""

from __future__ import annotations

import json
import time

import numpy as np
import numpy.typing as npt

from vaeseg.distributed.rows import SeriesRow, fullest_slice, outcome_to_json, pixels_marked, unpack_mask, unpack_slices
from vaeseg.distributed.stage import StageConfig, run_stage
from vaeseg.durable import fsync_directories
from vaeseg.errors import ReadingError, StoreError
from vaeseg.evaluation.lesions import measure_lesions
from vaeseg.evaluation.overlap import dice, iou
from vaeseg.evaluation.protocol import slice_ious
from vaeseg.geometry.orientation import axial_geometry, axial_order
from vaeseg.geometry.resample import label_to_model_grid, mask_to_native, model_pixel_mm, model_pixel_of_voxel
from vaeseg.io.labels import LabelOnGrid, read_label_on_grid
from vaeseg.io.manifest import SeriesManifest
from vaeseg.io.masks import MASK_NAME, write_mask, write_preview
from vaeseg.io.parquet import encode_mask
from vaeseg.paths import any_path
from vaeseg.records import MM3_PER_ML, BoolArray, Overlap, Reason, SegmentedSeries, SliceRecord, VolumeGeometry
from vaeseg.telemetry import Write, write_to_registry


def measure(row: SeriesRow, config: StageConfig, write: Write = write_to_registry) -> SeriesRow:
    """Carry the mask to the native grid, measure it, compare it with a label, and write its files."""
    return run_stage("measure", row, config, lambda: _measure(row, config), write)


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
            outlined = model_mask[fullest_slice(pixels_marked(model_mask))]
            pixel_mm = model_pixel_mm(axial.shape, axial.spacing_mm, config.image_size)
            write_preview(directory, unpack_slices(row["preview"], config.image_size)[0], outlined, pixel_mm)
        fsync_directories(directory, any_path(config.store_root))  # 11 ms on ext4, beside 150 for the mask
    except OSError as error:
        raise StoreError(f"cannot write masks to the store: {error.strerror}; free space and submit again") from error
    return sha256


def _slice_records(mask: BoolArray, label: BoolArray | None, geometry: VolumeGeometry) -> tuple[SliceRecord, ...]:
    areas = pixels_marked(mask) * geometry.pixel_area_mm2
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
