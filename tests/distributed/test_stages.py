"""The stages as functions, without Ray: what one series becomes on its way through."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from random_model import IMAGE_SIZE, write_overflowing_model

from vaeseg.config import ReadingConfig, RunConfig
from vaeseg.distributed import measuring, reading
from vaeseg.distributed.measuring import measure
from vaeseg.distributed.reading import read
from vaeseg.distributed.rows import (
    SeriesRow,
    failure_of,
    fullest_slice,
    outcome_of,
    pack_mask,
    pixels_marked,
    planned_row,
    unpack_mask,
    unpack_slices,
)
from vaeseg.distributed.runs import _stage_config
from vaeseg.distributed.segmenting import Segment
from vaeseg.distributed.stage import StageConfig
from vaeseg.errors import CheckpointError
from vaeseg.io.archive import scan_archive
from vaeseg.io.nifti import write_nifti
from vaeseg.io.store import Store
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.models.files import resolve_model
from vaeseg.records import FailedSeries, SegmentedSeries, VolumeGeometry

SIZE = 8
SHAPE = (3, 16, 16)
BOX = (slice(1, 3), slice(4, 8), slice(2, 6))
"""Where the tumour is on the native grid: whole model pixels of 2 x 2."""
SPACING = (2.0, 1.0, 1.0)


def geometry(mirrored: bool = False) -> VolumeGeometry:
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1.0]])
    if mirrored:  # i runs to the patient's right, as in a NIfTI file that is RAS
        affine[:3, 3] += affine[:3, 2] * (SHAPE[2] - 1)
        affine[:3, 2] *= -1
    return VolumeGeometry(shape=SHAPE, lps_from_kji=affine)


def config(tmp_path: Path, **changes: Any) -> StageConfig:
    fields: dict[str, Any] = {
        "run_id": "",
        "store_root": str(tmp_path / "store"),
        "model": "",
        "model_digest": "",
        "image_size": SIZE,
        "reading": ReadingConfig(),
        "output_types": ("nifti",),
    }
    return StageConfig(**fields | changes)


def volume() -> npt.NDArray[np.int16]:
    hu = np.full(SHAPE, -800, dtype=np.int16)
    hu[BOX] = 40
    hu[:, 0, 0] = -801  # else slices beside the box would be blank
    return hu


def planned(tmp_path: Path, mirrored: bool = False, label: bool = True, with_lungs: bool = False) -> SeriesRow:
    """A NIfTI series, its label beside it: 1, and 2 for all around it where there are lungs."""
    array = volume()[:, :, ::-1] if mirrored else volume()
    (tmp_path / "study").mkdir()
    write_nifti(tmp_path / "study" / "case.nii.gz", array, geometry(mirrored))
    inside = np.full(SHAPE, 2 if with_lungs else 0, dtype=np.uint8)
    inside[BOX] = 1
    write_nifti(tmp_path / "label.nii.gz", inside, geometry())
    (verdict,) = scan_archive(tmp_path / "study", ReadingConfig()).verdicts
    assert verdict.manifest is not None
    root, path = str(tmp_path / "study"), str(tmp_path / "label.nii.gz") if label else ""
    return planned_row(7, verdict.manifest, root, path, "masks/s/x/model")


def segmented(row: SeriesRow) -> SeriesRow:
    """What a model that knows a tumour by its HU would make of the slices."""
    slices = unpack_slices(row["slices"], SIZE)
    mask = slices > -300
    return SeriesRow(
        **{
            **row,
            "slices": b"",
            "mask_bits": pack_mask(mask),
            "hu_inside": slices[mask].tobytes(),
            "preview": slices[1].tobytes(),
        }
    )


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_series_is_measured_on_its_own_grid(tmp_path: Path, mirrored: bool) -> None:
    """Volume, lesion, slices, overlap and mask of a box of 2 x 4 x 4 voxels; the same for a mirrored file."""
    row = measure(segmented(read(planned(tmp_path, mirrored), config(tmp_path))), config(tmp_path))
    outcome = outcome_of(row)
    assert isinstance(outcome, SegmentedSeries)
    assert outcome.tumour_volume_ml == pytest.approx(2 * 4 * 4 * 2.0 / 1000)
    (lesion,) = outcome.lesions
    assert lesion.centroid_lps_mm == pytest.approx((3.5, 5.5, 3.0))
    assert lesion.mean_hu == pytest.approx(40)
    assert [record.tumour_area_mm2 for record in outcome.slices] == pytest.approx([0, 16, 16])
    assert [record.iou for record in outcome.slices] == [None, 1.0, 1.0]
    assert outcome.overlap is not None
    assert (outcome.overlap.iou, outcome.overlap.dice, outcome.overlap.iou_model_grid) == (1.0, 1.0, 1.0)
    assert outcome.warnings == (("label_resampled",) if mirrored else ())
    mask = np.asarray(nibabel.load(tmp_path / "store" / outcome.mask_uri).dataobj).T
    expected = volume() == 40
    np.testing.assert_array_equal(mask, expected[:, :, ::-1] if mirrored else expected)


def test_a_series_whose_turn_comes_too_late_is_not_begun(tmp_path: Path) -> None:
    """It goes through untouched and says so; a deadline that is to come changes nothing."""
    row, now = planned(tmp_path), datetime.now(UTC)
    late = measure(read(row, config(tmp_path, plan_until=now)), config(tmp_path))
    failure = failure_of(late)
    assert failure is not None
    assert (failure.is_postponed, failure.stops_run, late["outcome"]) == (True, False, "")
    assert failure_of(read(row, config(tmp_path, plan_until=now + timedelta(hours=1)))) is None


def test_without_a_label_overlap_is_unknown_and_not_zero(tmp_path: Path) -> None:
    """NULL, for the series and for each slice."""
    outcome = outcome_of(measure(segmented(read(planned(tmp_path, label=False), config(tmp_path))), config(tmp_path)))
    assert isinstance(outcome, SegmentedSeries)
    assert outcome.overlap is None
    assert all(record.iou is None for record in outcome.slices)


def test_of_a_label_of_several_values_one_must_be_chosen(tmp_path: Path) -> None:
    """Lungs are no tumour: without a choice overlap is unknown, and says what to do; with one a perfect mask has 1."""
    row = segmented(read(planned(tmp_path, with_lungs=True), config(tmp_path)))
    unknown, chosen = (outcome_of(measure(row, config(tmp_path, organ=organ))) for organ in (None, 1))
    assert isinstance(unknown, SegmentedSeries)
    assert isinstance(chosen, SegmentedSeries)
    assert unknown.overlap is None
    told = "several_label_values: label: values from 1 to 2, expected one above 0: choose it with --organ"
    assert (unknown.label_reason, unknown.warnings) == (told, ())
    assert chosen.overlap is not None
    assert (chosen.overlap.dice, chosen.label_reason) == (1.0, None)


def test_nothing_found_is_a_volume_of_zero(tmp_path: Path) -> None:
    """A success without lesions."""
    row = read(planned(tmp_path, label=False), config(tmp_path))
    empty = np.zeros((SHAPE[0], SIZE, SIZE), dtype=bool)
    row = SeriesRow(**{**row, "mask_bits": pack_mask(empty), "hu_inside": b"", "preview": row["slices"][: 2 * SIZE**2]})
    outcome = outcome_of(measure(row, config(tmp_path, output_types=("nifti", "png"))))
    assert isinstance(outcome, SegmentedSeries)
    assert (outcome.tumour_volume_ml, outcome.lesions) == (0.0, ())


def test_a_file_that_is_gone_becomes_a_failure(tmp_path: Path) -> None:
    """The stage returns; later stages pass the row through."""
    row = planned(tmp_path)
    (tmp_path / "study" / "case.nii.gz").unlink()
    failed = measure(read(row, config(tmp_path)), config(tmp_path))
    outcome = outcome_of(failed)
    assert isinstance(outcome, FailedSeries)
    assert outcome.reason == "unreadable_file"
    assert not outcome.crashed


def test_our_own_errors_tell_where_and_not_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message could quote a path or a header; type and line cannot."""

    def broken(*_: Any) -> None:
        raise KeyError("CANARYNAME")

    monkeypatch.setattr(reading, "read_volume", broken)
    outcome = outcome_of(read(planned(tmp_path), config(tmp_path)))
    assert isinstance(outcome, FailedSeries)
    assert outcome.reason == "internal_error"
    assert outcome.detail.startswith("KeyError at test_stages.py:")


def test_a_mask_outlasts_a_power_cut_once_its_finding_may_be_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not its bytes alone are flushed, but the names that lead to it."""
    flushed: set[Path] = set()
    really_flush = os.fsync

    def flush(descriptor: int) -> None:
        flushed.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        really_flush(descriptor)

    row = segmented(read(planned(tmp_path), config(tmp_path)))
    monkeypatch.setattr(os, "fsync", flush)
    assert isinstance(outcome_of(measure(row, config(tmp_path))), SegmentedSeries)
    store = tmp_path / "store"
    assert {store / below for below in ("", "masks", "masks/s", "masks/s/x", "masks/s/x/model")} <= flushed


def test_a_full_disk_stops_the_run_and_blames_no_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure says that the store cannot be written, for the driver to stop on."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    row = segmented(read(planned(tmp_path), config(tmp_path)))
    monkeypatch.setattr(measuring, "write_mask", full)
    failure = failure_of(measure(row, config(tmp_path)))
    assert failure is not None
    assert failure.stops_run
    assert "No space left on device" in failure.detail


def test_masks_travel_as_bits() -> None:
    """Sizes that are no multiple of eight come back too."""
    mask = np.random.default_rng(1).random((3, 5, 5)) > 0.5
    np.testing.assert_array_equal(unpack_mask(pack_mask(mask), 3, 5), mask)


def test_rows_hold_plain_values(tmp_path: Path) -> None:
    """Ray Data sees str, int, float and bytes, and the same columns after every stage."""
    row = planned(tmp_path)
    columns = {key: type(value) for key, value in row.items()}
    for stage in (read, lambda r, _c: segmented(r), measure):
        row = stage(row, config(tmp_path))
        assert {key: type(value) for key, value in row.items()} == columns
    assert json.loads(row["outcome"])["n_slices"] == 3


def test_a_decoder_that_hangs_is_ended_by_the_kernel(tmp_path: Path) -> None:
    """Python code cannot interrupt a decoder stuck in C; the timer kills the process, and the driver sees it gone."""
    row = planned(tmp_path)
    script = (
        "import json, sys, threading\n"
        "from vaeseg.config import ReadingConfig\n"
        "from vaeseg.distributed import reading\n"
        "from vaeseg.distributed.stage import StageConfig\n"
        "reading.read_volume = lambda *_: threading.Event().wait(60)\n"
        "config = StageConfig(run_id='', store_root='', model='', model_digest='', image_size=8,\n"
        "    output_types=(), reading=ReadingConfig(decode_timeout_seconds=1))\n"
        "reading.read(json.load(sys.stdin), config)\n"
    )
    plain = {key: value for key, value in row.items() if not isinstance(value, bytes)}
    done = subprocess.run([sys.executable, "-c", script], input=json.dumps(plain), text=True, timeout=50, check=False)
    assert done.returncode == -signal.SIGALRM


def test_what_was_read_in_time_leaves_no_alarm(tmp_path: Path) -> None:
    """It would kill the worker in the middle of another series."""
    read(planned(tmp_path), config(tmp_path))
    assert signal.alarm(0) == 0


@pytest.mark.parametrize("marked", [[(0, 3), (2, 9), (4, 1)], [(3, 5)], []])
def test_measuring_gets_what_lies_under_the_mask(
    marked: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HU of every pixel of the mask and of no other, in their order, from slices with unlike numbers of them."""
    rng = np.random.default_rng(4)
    slices, mask = rng.integers(-1000, 400, (6, SIZE, SIZE)).astype(np.int16), np.zeros((6, SIZE, SIZE), dtype=np.bool_)
    for place, n_pixels in marked:
        mask[place].flat[rng.choice(SIZE * SIZE, n_pixels, replace=False)] = True
    digest = load_checkpoint(resolve_model("phantom-v1")).digest
    segment = Segment(config(tmp_path, model="phantom-v1", model_digest=digest))
    monkeypatch.setattr(segment.predictor, "segment", lambda _: mask)
    row = segment(SeriesRow(**{**planned(tmp_path), "slices": slices.tobytes()}))
    assert row["hu_inside"] == slices[mask].tobytes()
    np.testing.assert_array_equal(unpack_mask(row["mask_bits"], 6, SIZE), mask)
    fullest = max(marked, key=lambda of: of[1])[0] if marked else 3
    assert row["preview"] == slices[fullest].tobytes()


def test_the_fullest_slice_is_shown() -> None:
    """And of an empty mask the middle."""
    mask = np.zeros((5, 4, 4), dtype=np.bool_)
    assert fullest_slice(pixels_marked(mask)) == 2
    mask[3, :2] = mask[1, 0] = True
    assert fullest_slice(pixels_marked(mask)) == 3


def test_the_process_of_a_model_loads_no_reader_of_images() -> None:
    """It would start a third of a second later; nobody else can use its GPU in that time."""
    script = (
        "import sys\n"
        "from vaeseg.distributed import segmenting\n"
        "from vaeseg.inference import predictor\n"
        "from vaeseg.models import checkpoint, files\n"
        "sys.exit(bool({'pydicom', 'nibabel', 'scipy', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=50, check=False).returncode == 0


def test_a_node_with_another_model_segments_nothing(tmp_path: Path) -> None:
    """Another version of vaeseg, say: its numbers would look right."""
    with pytest.raises(CheckpointError, match=r"the model here is .*, the run was submitted with 000000000000"):
        Segment(config(tmp_path, model="phantom-v1", model_digest="0" * 64))


def test_a_model_without_finite_values_fails_the_series(tmp_path: Path) -> None:
    """No tumour would be a finding; the reason is the model's, not the series'."""
    path = write_overflowing_model(tmp_path / "m.safetensors")
    asked = config(tmp_path, model=str(path), model_digest=load_checkpoint(path).digest, image_size=IMAGE_SIZE)
    row = measure(Segment(asked)(read(planned(tmp_path), asked)), asked)
    failure = failure_of(row)
    assert failure is not None
    assert (failure.reason, row["outcome"]) == ("model_output_not_finite", "")
    assert failure.detail == "the model's values for slices 0 to 2 are not finite"


def test_the_model_computes_in_what_the_run_asks_for(tmp_path: Path) -> None:
    """An order goes all the way to the model, whatever the hardware has."""
    digest = load_checkpoint(resolve_model("phantom-v1")).digest
    for precision, computes_in in (("fp32", "float32"), ("bf16", "bfloat16")):
        run = RunConfig(model_path="phantom-v1", precision=precision)  # type: ignore[arg-type]
        stages = _stage_config(SimpleNamespace(config=run, run_id="", store=Store(tmp_path)), digest)  # type: ignore[arg-type]
        assert Segment(stages).predictor.computes_in == computes_in
