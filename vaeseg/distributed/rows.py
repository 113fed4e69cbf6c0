"""What travels between the stages of the pipeline: one row a series, columns of plain types.

Every stage takes a row and returns one with the same columns, so that Ray Data sees a single schema. A row whose
`failure` is filled has met its end and is passed through untouched.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from vaeseg.io.manifest import SeriesManifest
from vaeseg.records import (
    BoolArray,
    FailedSeries,
    IntArray,
    LesionRecord,
    Overlap,
    SegmentedSeries,
    SeriesOutcome,
    SeriesRef,
    SliceRecord,
)


class SeriesRow(TypedDict):
    """One series on its way through the pipeline."""

    work_item: int
    series_instance_uid: str
    manifest: str
    """`SeriesManifest.to_json`."""
    root: str
    """Of the archive."""
    label: str
    """Path of the label, or empty."""
    mask_dir: str
    """Relative to the store."""
    slices: bytes
    """(K, S, S) int16 HU on the model grid; empty before `read` and after `segment`."""
    mask_bits: bytes
    """`numpy.packbits` of the (K, S, S) mask."""
    hu_inside: bytes
    """int16 HU of the mask's pixels, in C order: all that measuring needs of the image."""
    preview: bytes
    """(S, S) int16 HU of the slice with most tumour."""
    warnings: str
    """JSON list."""
    outcome: str
    """JSON of a finished SegmentedSeries; empty before `measure`."""
    mask_encoding: bytes
    failure: str
    """JSON of a Failure, or empty."""
    read_seconds: float
    segment_seconds: float


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a row goes no further."""

    reason: str
    detail: str
    stops_run: bool = False
    """The store cannot be written: no series' fault, and no series after it would fare better."""
    is_postponed: bool = False
    """Not begun, because the run begins no more series: no failure of the series, which stays pending."""


def planned_row(work_item: int, manifest: SeriesManifest, root: str, label: str, mask_dir: str) -> SeriesRow:
    """The row that enters the pipeline."""
    return SeriesRow(
        work_item=work_item,
        series_instance_uid=manifest.ref.series_instance_uid,
        manifest=manifest.to_json(),
        root=root,
        label=label,
        mask_dir=mask_dir,
        slices=b"",
        mask_bits=b"",
        hu_inside=b"",
        preview=b"",
        warnings="[]",
        outcome="",
        mask_encoding=b"",
        failure="",
        read_seconds=0.0,
        segment_seconds=0.0,
    )


def failed_row(row: SeriesRow, failure: Failure) -> SeriesRow:
    """The row with its payload dropped and its failure set."""
    return SeriesRow(
        **{
            **row,
            "slices": b"",
            "mask_bits": b"",
            "hu_inside": b"",
            "preview": b"",
            "failure": json.dumps(asdict(failure)),
        }
    )


def failure_of(row: SeriesRow) -> Failure | None:
    """The failure that a row carries, if any."""
    return Failure(**json.loads(row["failure"])) if row["failure"] else None


def pack_mask(mask: BoolArray) -> bytes:
    """Eight pixels a byte: 8 KB for a slice of 256 x 256."""
    return np.packbits(mask).tobytes()


def unpack_mask(data: bytes, n_slices: int, size: int) -> BoolArray:
    """The inverse of `pack_mask`: (K, S, S) bool."""
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=n_slices * size * size)
    return bits.reshape(n_slices, size, size).astype(np.bool_)


def unpack_slices(data: bytes, size: int) -> npt.NDArray[np.int16]:
    """(K, S, S) int16, read-only."""
    return np.frombuffer(data, dtype=np.int16).reshape(-1, size, size)


def pixels_marked(mask: BoolArray) -> IntArray:
    """(K,) pixels of each slice of a mask (K, J, I): a tenth of the time of a sum over axes."""
    return np.array([np.count_nonzero(plane) for plane in mask], dtype=np.int64)


def fullest_slice(marked: IntArray) -> int:
    """Of those with (K,) `pixels_marked`, the one that a preview shows: with most tumour, or without any the middle."""
    return int(marked.argmax()) if marked.any() else len(marked) // 2


def outcome_to_json(outcome: SegmentedSeries) -> str:
    """All of an outcome but its mask encoding, which travels as bytes."""
    fields = asdict(outcome)
    del fields["mask_encoding"]
    return json.dumps(fields)


def outcome_of(row: SeriesRow) -> SeriesOutcome:
    """What became of the series of a row that left the pipeline."""
    if failure := failure_of(row):
        ref = SeriesManifest.from_json(row["manifest"]).ref
        seconds = row["read_seconds"] or None
        return FailedSeries(ref=ref, reason=failure.reason, detail=failure.detail, read_seconds=seconds)
    fields: dict[str, Any] = json.loads(row["outcome"])
    overlap = fields.pop("overlap")
    return SegmentedSeries(
        ref=SeriesRef(**fields.pop("ref")),
        lesions=tuple(_lesion(lesion) for lesion in fields.pop("lesions")),
        slices=tuple(SliceRecord(**record) for record in fields.pop("slices")),
        overlap=Overlap(**overlap) if overlap else None,
        mask_shape=tuple(fields.pop("mask_shape")),
        warnings=tuple(fields.pop("warnings")),
        mask_encoding=row["mask_encoding"],
        **fields,
    )


def _lesion(fields: dict[str, Any]) -> LesionRecord:
    return LesionRecord(**{**fields, "centroid_lps_mm": tuple(fields["centroid_lps_mm"])})
