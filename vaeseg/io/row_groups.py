"""The rows of a prepared data set: their Parquet columns, and the digests by which damage is noticed.

S side of the model grid, N rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vaeseg.io.slices import SliceSet

ROW_GROUP_SLICES = 64
"""Slices that are read and checked together: 4.7 MB at 256 x 256 in 8 bits."""
SHARD_BYTES = 128 * 2**20
"""Most pixel bytes of a shard before compression, if that is a row group at all: what writing holds in memory."""
PIXEL_COLUMNS = ("image", "label")
NAME_COLUMNS = ("subject_key", "series")
NUMBER_COLUMNS = ("slice_index", "spacing_k_mm", "spacing_j_mm", "spacing_i_mm", "tumour_pixels")
INDEX_COLUMNS = NAME_COLUMNS + NUMBER_COLUMNS


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """What decides the bytes of a row."""

    image_size: int
    bits: int
    """Of an image pixel: 8 or 16."""
    with_labels: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an image pixel, little-endian."""
        return np.dtype("u1" if self.bits == 8 else "<u2")

    @property
    def image_bytes(self) -> int:
        """Of one image."""
        return self.image_size**2 * self.dtype.itemsize

    @property
    def label_shape(self) -> tuple[int, int]:
        """Rows, and bytes of a packed row."""
        return self.image_size, -(-self.image_size // 8)

    @property
    def label_bytes(self) -> int:
        """Of one packed label; 0 without."""
        return self.label_shape[0] * self.label_shape[1] if self.with_labels else 0

    @property
    def shard_slices(self) -> int:
        """Rows of a full shard, a multiple of `ROW_GROUP_SLICES`."""
        row_group_bytes = ROW_GROUP_SLICES * (self.image_bytes + self.label_bytes)
        return ROW_GROUP_SLICES * max(1, SHARD_BYTES // row_group_bytes)

    @property
    def schema(self) -> pa.Schema:
        """Parquet schema; every image has the same number of bytes, and so has every label."""
        label = pa.binary(self.label_bytes if self.with_labels else -1)
        return pa.schema(
            [
                pa.field("image", pa.binary(self.image_bytes), nullable=False),
                pa.field("label", label, nullable=not self.with_labels),
                pa.field("subject_key", pa.string(), nullable=False),
                pa.field("series", pa.string(), nullable=False),
                pa.field("slice_index", pa.int32(), nullable=False),
                pa.field("spacing_k_mm", pa.float32(), nullable=False),
                pa.field("spacing_j_mm", pa.float32(), nullable=False),
                pa.field("spacing_i_mm", pa.float32(), nullable=False),
                pa.field("tumour_pixels", pa.int32(), nullable=not self.with_labels),
            ]
        )


def table_of(
    slices: SliceSet,
    subjects: list[str],
    series: list[str],
    slice_index: npt.NDArray[np.int32],
    spacing_mm: npt.NDArray[np.float32],
    row_format: RowFormat,
) -> pa.Table:
    """Rows as a table.

    Args:
        slices: (N, S, S) pixels.
        subjects: N names.
        series: N names.
        slice_index: (N,) place within the series.
        spacing_mm: (N, 3).
        row_format: its schema is the table's.
    """
    tumour = tumour_pixels(slices)
    columns = [
        _fixed_binary(slices.images.astype(row_format.dtype, copy=False), row_format.image_bytes),
        pa.nulls(len(slices), pa.binary())
        if slices.packed_labels is None
        else _fixed_binary(slices.packed_labels, row_format.label_bytes),
        pa.array(subjects, pa.string()),
        pa.array(series, pa.string()),
        pa.array(slice_index, pa.int32()),
        *(pa.array(np.ascontiguousarray(spacing_mm[:, axis]), pa.float32()) for axis in range(3)),
        pa.nulls(len(slices), pa.int32()) if tumour is None else pa.array(tumour, pa.int32()),
    ]
    return pa.Table.from_arrays(columns, schema=row_format.schema)


def slices_of(table: pa.Table, row_format: RowFormat) -> SliceSet:
    """The pixels of a table that has the pixel columns; the inverse of `table_of`.

    Raises:
        ValueError: the columns are of another size.
    """
    size = row_format.image_size
    images = _fixed_rows(table, "image", row_format.image_bytes).view(row_format.dtype).reshape(-1, size, size)
    images = images.astype(row_format.dtype.newbyteorder("="), copy=False)
    if not row_format.with_labels:
        return SliceSet(images=images, packed_labels=None)
    labels = _fixed_rows(table, "label", row_format.label_bytes).reshape(-1, *row_format.label_shape)
    return SliceSet(images=images, packed_labels=labels)


def tumour_pixels(slices: SliceSet) -> npt.NDArray[np.int32] | None:
    """Label pixels of each slice: (N,) int32, None without labels."""
    if slices.packed_labels is None:
        return None
    bits: npt.NDArray[np.uint8] = np.unpackbits(slices.packed_labels, axis=-1)
    return np.asarray(bits.sum(axis=(1, 2)), dtype=np.int32)


def pixels_digest(slices: SliceSet) -> str:
    """SHA-256 over images and labels as they are stored, whatever the compression."""
    digest = hashlib.sha256(slices.images.astype(slices.images.dtype.newbyteorder("<"), copy=False).tobytes())
    if slices.packed_labels is not None:
        digest.update(slices.packed_labels.tobytes())
    return digest.hexdigest()


class IndexDigest:
    """SHA-256 over everything but pixels of all rows, in order, however they are cut into tables."""

    def __init__(self) -> None:
        self._columns = {name: hashlib.sha256() for name in INDEX_COLUMNS}

    def update(self, table: pa.Table) -> None:
        """Add the rows of a table that has the index columns; what is null counts as 0."""
        for name in NAME_COLUMNS:
            self._columns[name].update("".join(f"{text}\n" for text in table.column(name).to_pylist()).encode())
        for name in NUMBER_COLUMNS:
            self._columns[name].update(table.column(name).fill_null(0).to_numpy().tobytes())

    def hexdigest(self) -> str:
        """64 hex digits over the columns' digests."""
        return hashlib.sha256("".join(column.hexdigest() for column in self._columns.values()).encode()).hexdigest()


def _fixed_binary(array: npt.NDArray[Any], n_bytes: int) -> pa.Array:
    contiguous = np.ascontiguousarray(array)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(n_bytes), len(array), [None, pa.py_buffer(contiguous)])


def _fixed_rows(table: pa.Table, name: str, n_bytes: int) -> npt.NDArray[np.uint8]:
    """(N, n_bytes) of a column of fixed-size binary."""
    column = table.column(name)
    if column.type != pa.binary(n_bytes) or column.null_count:
        raise ValueError(f"column {name} holds {column.type}, expected {n_bytes} bytes a row")
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * n_bytes, chunk.offset * n_bytes)
        for chunk in column.chunks
    ]
    return np.concatenate(chunks).reshape(-1, n_bytes)
