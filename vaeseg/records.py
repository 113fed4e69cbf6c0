"""The values that travel between parts: geometry, volumes, series and what became of them.

Array order is (k, j, i) = slice, row, column throughout. Patient space is DICOM's LPS in millimetres
(x to the patient's left, y to the back, z to the head) unless a name says RAS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]

MM3_PER_ML = 1000.0
OUTCOMES = ("segmented", "skipped", "failed", "crashed")
"""What may become of a series that was to be done."""


class Reason(StrEnum):
    """Why a file, group of files or series was refused: the closed list that SQL, JSON and docs share."""

    # the file is not one that can hold a CT slice
    NOT_AN_IMAGE = "not_an_image"
    EMPTY_FILE = "empty_file"
    DICOMDIR = "dicomdir"
    UNREADABLE_FILE = "unreadable_file"
    UNREADABLE_INSTANCE = "unreadable_instance"
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    LINK_NOT_FOLLOWED = "link_not_followed"
    # the object is a DICOM image that is not a slice of a CT volume
    WRONG_MODALITY = "wrong_modality"
    LOCALIZER = "localizer"
    SECONDARY_CAPTURE = "secondary_capture"
    ENHANCED_MULTIFRAME_UNSUPPORTED = "enhanced_multiframe_unsupported"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    UNSUPPORTED_PIXEL_FORMAT = "unsupported_pixel_format"
    MISSING_PIXEL_DATA = "missing_pixel_data"
    # the series is not one regular volume
    MISSING_GEOMETRY = "missing_geometry"
    INVALID_GEOMETRY = "invalid_geometry"
    INCONSISTENT_GEOMETRY = "inconsistent_geometry"
    SINGLE_SLICE = "single_slice"
    MISSING_SLICES = "missing_slices"
    NON_UNIFORM_SPACING = "non_uniform_spacing"
    DUPLICATE_POSITIONS = "duplicate_positions"
    DUPLICATE_INSTANCE = "duplicate_instance"
    SEVERAL_PATIENTS = "several_patients"
    SLICES_VANISHED = "slices_vanished"
    TOO_LARGE = "too_large"
    # the pixels
    TRUNCATED_PIXEL_DATA = "truncated_pixel_data"
    DECODE_FAILED = "decode_failed"
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TIMEOUT = "decoder_timeout"
    CHANGED_WHILE_READING = "changed_while_reading"
    # NIfTI
    DAMAGED_FILE = "damaged_file"
    NIFTI_PAIR_UNSUPPORTED = "nifti_pair_unsupported"
    NO_AFFINE = "no_affine"
    SINGULAR_AFFINE = "singular_affine"
    NOT_THREE_DIMENSIONAL = "not_three_dimensional"
    NON_FINITE_VOXELS = "non_finite_voxels"
    NOT_HOUNSFIELD_UNITS = "not_hounsfield_units"
    UNSUPPORTED_UNITS = "unsupported_units"
    # a label beside a series
    LABEL_GEOMETRY_MISMATCH = "label_geometry_mismatch"
    FRACTIONAL_LABEL = "fractional_label"
    SEVERAL_LABEL_VALUES = "several_label_values"
    # the model
    MODEL_OUTPUT_NOT_FINITE = "model_output_not_finite"
    # our own fault
    INTERNAL_ERROR = "internal_error"


TRANSIENT = frozenset({Reason.CHANGED_WHILE_READING, Reason.UNREADABLE_FILE})
"""Reasons that may be gone the next time, without anything that the file or its index could tell of."""


class Warn(StrEnum):
    """What a reader of the numbers should know about a volume that was read all the same."""

    GANTRY_TILT = "gantry_tilt"
    PADDING_CLIPPED = "padding_clipped"
    VALUES_ABOVE_INT16 = "values_above_int16"
    RESCALE_MISSING = "rescale_missing"
    RESCALE_TYPE_NOT_HU = "rescale_type_not_hu"
    LOSSY_COMPRESSION = "lossy_compression"
    MONOCHROME1 = "monochrome1"
    EXCESS_PIXEL_DATA = "excess_pixel_data"
    CODESTREAM_DIFFERS = "codestream_differs"
    SERIES_UID_DERIVED = "series_uid_derived"
    INSTANCE_UID_MISSING = "instance_uid_missing"
    SPLIT_BY_ACQUISITION = "split_by_acquisition"
    PROJECTION = "projection"
    INSTANCES_LEFT_OUT = "instances_left_out"
    INSTANCE_NUMBERS_SKIPPED = "instance_numbers_skipped"
    QFORM_SFORM_DIFFER = "qform_sform_differ"
    PIXDIM_DIFFERS = "pixdim_differs"
    NO_NEGATIVE_VALUES = "no_negative_values"
    BLANK_SLICES = "blank_slices"
    NO_PREAMBLE = "no_preamble"
    LABEL_RESAMPLED = "label_resampled"
    LABEL_COVERS_PART = "label_covers_part"
    SEVERAL_LABEL_VALUES = "several_label_values"


SINGULAR_SHARE = 1e-6
"""A voxel that has less than this share of its box's volume is flat, save for rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VolumeGeometry:
    """Where a regular grid of voxels lies in the patient.

    Raises:
        ValueError: the affine is not finite or is singular, or a dimension is not positive.
    """

    shape: tuple[int, int, int]
    """(K, J, I): slices, rows, columns."""
    lps_from_kji: FloatArray
    """(4, 4) float64; maps the centre of voxel (k, j, i, 1) to LPS mm. Sheared for a tilted gantry."""

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape {self.shape} is not three positive dimensions")
        if self.lps_from_kji.shape != (4, 4) or not np.isfinite(self.lps_from_kji).all():
            raise ValueError("lps_from_kji is not a finite 4 x 4 matrix")
        if not self.voxel_volume_mm3 > SINGULAR_SHARE * math.prod(self.spacing_mm):
            raise ValueError("lps_from_kji is singular")

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (k, j, i), in mm."""
        lengths = np.linalg.norm(self.lps_from_kji[:3, :3], axis=0)
        return (float(lengths[0]), float(lengths[1]), float(lengths[2]))

    @cached_property
    def voxel_volume_mm3(self) -> float:
        """Absolute determinant of the affine, right for sheared and mirrored grids too."""
        return float(abs(np.linalg.det(self.lps_from_kji[:3, :3])))

    @cached_property
    def pixel_area_mm2(self) -> float:
        """Of a voxel within its slice, right for sheared grids too."""
        return float(np.linalg.norm(np.cross(self.lps_from_kji[:3, 1], self.lps_from_kji[:3, 2])))


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """A CT volume in Hounsfield units with its place in the patient."""

    volume_hu: npt.NDArray[np.int16] | npt.NDArray[np.float32]
    """(K, J, I); int16, or float32 where values are fractional or above 32767. Never below HU_FLOOR."""
    geometry: VolumeGeometry
    warnings: tuple[Warn, ...] = ()
    """What was noticed while reading, in addition to what the headers told."""


@dataclass(frozen=True, kw_only=True)
class SeriesRef:
    """Which series: the identifiers that may appear in logs, Parquet and findings."""

    series_instance_uid: str
    """From DICOM; derived from a digest where the data set has none or the source is NIfTI."""
    study_instance_uid: str
    """As above."""
    subject_key: str | None = None
    """Keyed pseudonym of the patient; None where the files name none."""


@dataclass(frozen=True, kw_only=True)
class LesionRecord:
    """One connected component of a mask, measured on the native grid."""

    lesion_index: int
    """From 1, largest first."""
    volume_ml: float
    """Voxel count times voxel volume."""
    n_voxels: int
    """Voxels of the native grid."""
    centroid_lps_mm: tuple[float, float, float]
    """Mean of the voxel centres, LPS mm."""
    longest_axial_diameter_mm: float
    """Greatest extent within one axial slice, mm."""
    mean_hu: float
    """Mean Hounsfield units inside."""


@dataclass(frozen=True, kw_only=True)
class SliceRecord:
    """One native slice of a segmented series."""

    slice_index: int
    """Along k of the native grid, from 0."""
    tumour_area_mm2: float
    """Voxels of the slice that are tumour, times the in-plane voxel area."""
    iou: float | None = None
    """At native resolution; None without a label, or where both mask and label are empty."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Agreement of a mask with a label; None where undefined (both empty)."""

    iou: float | None
    """Native grid."""
    dice: float | None
    """Native grid."""
    iou_model_grid: float | None
    """On the model's own grid."""
    dice_model_grid: float | None
    """On the model's own grid."""


@dataclass(frozen=True, kw_only=True)
class SegmentedSeries:
    """A series with a mask. No tumour found is a success, with volume 0."""

    ref: SeriesRef
    n_slices: int
    tumour_volume_ml: float
    lesions: tuple[LesionRecord, ...]
    slices: tuple[SliceRecord, ...]
    mask_uri: str
    """Relative to the store."""
    mask_sha256: str
    mask_encoding: bytes
    """The native mask as `io.parquet.encode_mask` writes it."""
    mask_shape: tuple[int, int, int]
    overlap: Overlap | None = None
    label_reason: str | None = None
    """Why there is no overlap although a label was given."""
    warnings: tuple[str, ...] = ()
    read_seconds: float = 0.0
    segment_seconds: float = 0.0
    measure_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SkippedSeries:
    """A readable series that a selection rule left out."""

    ref: SeriesRef
    reason: str
    """The rule, such as ``min_slices``."""
    detail: str
    """Both values."""


@dataclass(frozen=True, kw_only=True)
class FailedSeries:
    """A series whose reading, segmentation or measurement failed; `crashed` when a process died over it."""

    ref: SeriesRef
    reason: str
    detail: str
    crashed: bool = False
    read_seconds: float | None = None


SeriesOutcome = SegmentedSeries | SkippedSeries | FailedSeries


@dataclass(frozen=True, kw_only=True)
class IndexedFile:
    """One file of an archive as the index has it."""

    path: str
    """Relative to the archive's root."""
    size: int
    """Bytes."""
    mtime_ns: int
    sop_instance_uid: str | None = None
    group_key: str | None = None
    """What it is judged with; None for a file that belongs nowhere, which has a reason."""
    header: str | None = None
    """JSON of what `judge_group` needs; None without a group."""
    reason: str | None = None
    detail: str | None = None
    is_damaged: bool = False
    """Whether it may have been a slice of any series beside it."""

    @property
    def directory(self) -> str:
        """Relative to the root; empty for the root itself."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, kw_only=True)
class FileCount:
    """found = in_series + refused + waiting, or files were lost on the way from the scan into the index."""

    found: int
    """Counted by the scan, the others by what became of each file."""
    in_series: int
    refused: int
    refused_by_reason: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    """Too young to be looked at."""

    @property
    def unaccounted(self) -> int:
        """Files found of which nobody knows what became; negative where there are more than were found."""
        return self.found - self.in_series - self.refused - self.waiting

    @property
    def numbers(self) -> dict[str, int]:
        """Without the reasons."""
        return {name: value for name, value in vars(self).items() if name != "refused_by_reason"}


@dataclass(frozen=True, kw_only=True)
class PartFile:
    """One Parquet file of a part: what a group of series adds to one data set."""

    run_id: str
    dataset: str
    """`findings`, `lesions`, `slices` or `masks`."""
    name: str
    """Such as ``part-00001.parquet``; unique within run and data set."""
    n_rows: int = 0
    sha256: str = ""
    """64 hex digits over the file's bytes; empty where only the file's place is meant."""

    @property
    def place(self) -> tuple[str, str, str]:
        """What tells it from every other: run, data set and name."""
        return (self.run_id, self.dataset, self.name)
