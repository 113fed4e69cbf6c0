"""A readable series as it travels from the plan to the worker that reads it: plain values, JSON both ways."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from vaeseg.errors import StoreError
from vaeseg.records import SeriesRef, VolumeGeometry, Warn

FORMAT = 2
"""Goes up when the JSON changes."""


@dataclass(frozen=True, kw_only=True)
class SliceFile:
    """One file of a series: a DICOM instance, or the one file of a NIfTI volume."""

    path: str
    """Relative to the root that was scanned."""
    size: int
    """Bytes."""
    sop_instance_uid: str = ""
    image_digest: str = ""
    """From `headers.image_digest`, by which a change is noticed when the pixels are read; empty for NIfTI."""


@dataclass(frozen=True, kw_only=True)
class SeriesManifest:
    """Everything a worker needs to read one series, and nothing that names a patient."""

    kind: Literal["dicom", "nifti"]
    series_key: str
    """The series UID, with ``-2``, ``-3`` where one UID holds several volumes; unique within an archive."""
    ref: SeriesRef
    files: tuple[SliceFile, ...]
    """In slice order."""
    shape: tuple[int, int, int]
    """(K, J, I)."""
    lps_from_kji: tuple[tuple[float, ...], ...]
    """(4, 4)."""
    warnings: tuple[Warn, ...] = ()

    @property
    def geometry(self) -> VolumeGeometry:
        """The grid that the headers describe."""
        return VolumeGeometry(shape=self.shape, lps_from_kji=np.array(self.lps_from_kji, dtype=np.float64))

    def to_json(self) -> str:
        """The inverse of `from_json`; file names that are not UTF-8 survive as escaped surrogates."""
        return json.dumps(asdict(self) | {"format": FORMAT})

    @classmethod
    def from_json(cls, text: str) -> SeriesManifest:
        """Rebuild a manifest that `to_json` wrote.

        Raises:
            StoreError: another version of vaeseg did; no series is to fail for it.
        """
        fields: dict[str, Any] = json.loads(text)
        if fields.get("format") != FORMAT:
            raise StoreError("a worker has another version of vaeseg than the driver: install the same on every node")
        return cls(
            kind=fields["kind"],
            series_key=fields["series_key"],
            ref=SeriesRef(**fields["ref"]),
            files=tuple(SliceFile(**file) for file in fields["files"]),
            shape=tuple(fields["shape"]),
            lps_from_kji=tuple(tuple(row) for row in fields["lps_from_kji"]),
            warnings=tuple(Warn(name) for name in fields["warnings"]),
        )


def matrix_as_tuples(matrix: Any) -> tuple[tuple[float, ...], ...]:
    """A (4, 4) array as nested tuples of Python floats."""
    return tuple(tuple(float(value) for value in row) for row in np.asarray(matrix))
