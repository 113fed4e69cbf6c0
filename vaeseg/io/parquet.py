"""Findings, lesions, slices and masks as Parquet, and the compact encoding of a mask.

A mask is stored as the zlib-compressed bits of its bounding box. All numbers are little-endian; voxel order is the
file's own native (k, j, i), the last index fastest, the first voxel in the highest bit of the first byte:

    offset  size  field
    0       4     magic "VSMK"
    4       1     version, 1
    5       4     CRC-32 of everything after this field
    9       12    shape: K, J, I
    21      12    start of the box: k, j, i
    33      12    stop of the box, exclusive: k, j, i; all of start and stop 0 for an empty mask
    45      ...   zlib stream of the box's voxels, eight to a byte, last byte padded with 0
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vaeseg.evaluation.boxes import Box, bounding_box
from vaeseg.paths import AnyPath, matches
from vaeseg.records import BoolArray
from vaeseg.remote import RemotePath

MAGIC = b"VSMK"
VERSION = 1

MAX_DECODED_VOXELS = 2**30
"""A mask that claims more is refused before anything is allocated; one voxel is one byte."""

_FRAME = struct.Struct("<4sBI")
_HEADER = struct.Struct("<9I")

_RUN_ID = pa.dictionary(pa.int32(), pa.string())
"""As readers infer it from the directory name `run_id=...`, so that both agree on the type."""

FINDINGS_SCHEMA = pa.schema(
    [
        pa.field("run_id", _RUN_ID, nullable=False),
        pa.field("series_instance_uid", pa.string(), nullable=False),
        pa.field("study_instance_uid", pa.string(), nullable=False),
        pa.field("subject_key", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("n_slices", pa.int32()),
        pa.field("tumour_volume_ml", pa.float64()),
        pa.field("lesion_count", pa.int32()),
        pa.field("largest_lesion_ml", pa.float64()),
        pa.field("iou", pa.float64()),
        pa.field("dice", pa.float64()),
        pa.field("read_seconds", pa.float64()),
        pa.field("segment_seconds", pa.float64()),
        pa.field("measure_seconds", pa.float64()),
        pa.field("mask_uri", pa.string()),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

_KEY_FIELDS = [
    pa.field("run_id", _RUN_ID, nullable=False),
    pa.field("series_instance_uid", pa.string(), nullable=False),
    pa.field("series_key", pa.string(), nullable=False),
    pa.field("model", pa.string(), nullable=False),
]

LESIONS_SCHEMA = pa.schema(
    [
        *_KEY_FIELDS,
        pa.field("lesion_index", pa.int32(), nullable=False),
        pa.field("volume_ml", pa.float64(), nullable=False),
        pa.field("n_voxels", pa.int64(), nullable=False),
        pa.field("centroid_x_lps_mm", pa.float64(), nullable=False),
        pa.field("centroid_y_lps_mm", pa.float64(), nullable=False),
        pa.field("centroid_z_lps_mm", pa.float64(), nullable=False),
        pa.field("longest_axial_diameter_mm", pa.float64(), nullable=False),
        pa.field("mean_hu", pa.float64(), nullable=False),
    ]
)

SLICES_SCHEMA = pa.schema(
    [
        *_KEY_FIELDS,
        pa.field("slice_index", pa.int32(), nullable=False),
        pa.field("tumour_area_mm2", pa.float64(), nullable=False),
        pa.field("iou", pa.float64()),
    ]
)

MASKS_SCHEMA = pa.schema(
    [
        *_KEY_FIELDS,
        pa.field("n_slices", pa.int32(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("columns", pa.int32(), nullable=False),
        pa.field("mask", pa.binary(), nullable=False),
        pa.field("mask_uri", pa.string(), nullable=False),
        pa.field("mask_sha256", pa.string(), nullable=False),
    ]
)

SCHEMAS: dict[str, pa.Schema] = {
    "findings": FINDINGS_SCHEMA,
    "lesions": LESIONS_SCHEMA,
    "slices": SLICES_SCHEMA,
    "masks": MASKS_SCHEMA,
}
"""Every data set under `parquet/`, in the order in which a part's files are written and published."""


class StoredMask(NamedTuple):
    """One row of the masks data set, decoded."""

    run_id: str
    series_instance_uid: str
    series_key: str
    model: str
    mask: BoolArray
    """(K, J, I) bool, native grid and order of the source."""


def encode_mask(mask: BoolArray) -> bytes:
    """Pack a mask as the module's docstring says; the same mask always gives the same bytes.

    Args:
        mask: (K, J, I) bool, native grid.

    Raises:
        ValueError: it is not three-dimensional, or not bool.
    """
    if mask.ndim != 3 or mask.dtype != np.bool_:
        raise ValueError(f"a mask is (K, J, I) bool, not {mask.shape} {mask.dtype}")
    box = bounding_box(mask)
    corners = [side.start for side in box] + [side.stop for side in box]
    body = _HEADER.pack(*mask.shape, *corners) + zlib.compress(np.packbits(mask[box]).tobytes())
    return _FRAME.pack(MAGIC, VERSION, zlib.crc32(body)) + body


def decode_mask(data: bytes, max_voxels: int = MAX_DECODED_VOXELS) -> BoolArray:
    """Unpack what `encode_mask` wrote.

    Args:
        data: the encoding.
        max_voxels: bound on the mask's size, checked before anything is allocated.

    Returns:
        (K, J, I) bool.

    Raises:
        ValueError: the data are damaged, of another kind or version, or larger than the bound.
    """
    body = _checked_body(data)
    numbers = _HEADER.unpack_from(body)
    shape, start, stop = numbers[:3], numbers[3:6], numbers[6:]
    if math.prod(shape) > max_voxels:
        raise ValueError(f"mask claims {math.prod(shape)} voxels, at most {max_voxels} are read")
    if any(not low <= high <= size for low, high, size in zip(start, stop, shape, strict=True)):
        raise ValueError(f"mask box {start} to {stop} leaves its shape {shape}")
    mask = np.zeros(shape, dtype=np.bool_)
    box: Box = (slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2]))
    mask[box] = _unpack(body[_HEADER.size :], mask[box].shape)
    return mask


def write_dataset_file(path: AnyPath, dataset: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one Parquet file of a data set, compressed with zstd.

    Args:
        path: where to write.
        dataset: a key of `SCHEMAS`.
        rows: a mapping from column to value each; a column that is missing is NULL.

    Raises:
        ValueError: a value is NULL where the schema allows none, or does not fit its type.
        OSError: the file cannot be written.
    """
    schema = SCHEMAS[dataset]
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    for field in schema:
        if not field.nullable and table.column(field.name).null_count:
            raise ValueError(f"{dataset} column {field.name} has a NULL")
    _write(table, path)


def read_columns(path: AnyPath, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Some columns of one file, a tuple a row.

    Raises:
        OSError: it cannot be read, or is no Parquet file.
    """
    try:
        table = pq.read_table(_source(path), columns=list(columns), partitioning=None)
    except pa.ArrowInvalid as error:
        raise OSError(f"not a Parquet file: {path.name}") from error
    return list(zip(*(table.column(name).to_pylist() for name in columns), strict=True))


def copy_without(source: AnyPath, target: AnyPath, dataset: str, numbers: Set[int]) -> int:
    """Write a file of a data set again, without some of its rows; where none is left, nothing is written.

    Args:
        source: the file as it is.
        target: where to write; its directory exists.
        dataset: a key of `SCHEMAS`.
        numbers: of those rows, from 0 in the order of `read_columns`.

    Returns:
        Rows that are left.

    Raises:
        OSError: one cannot be read or written.
    """
    table = pq.read_table(_source(source), schema=SCHEMAS[dataset], partitioning=None)
    kept = table.filter(pa.array([number not in numbers for number in range(len(table))], pa.bool_()))
    if len(kept):
        _write(kept, target)
    return len(kept)


def read_dataset(parquet_root: AnyPath, dataset: str) -> pa.Table:
    """All published rows of a data set, in order of run and part; an empty table where there are none.

    Raises:
        OSError: a file cannot be read.
    """
    schema = SCHEMAS[dataset]
    paths = _part_paths(parquet_root, dataset)
    tables = [pq.read_table(_source(path), schema=schema, partitioning=None) for path in paths]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def read_masks(parquet_root: AnyPath, series_instance_uid: str | None = None) -> Iterator[StoredMask]:
    """Decode the masks of a store one by one, in order of run and part.

    Args:
        parquet_root: the store's `parquet` directory.
        series_instance_uid: only this series; all when None.

    Raises:
        ValueError: an encoding is damaged.
        OSError: a file cannot be read.
    """
    wanted = [("series_instance_uid", "=", series_instance_uid)] if series_instance_uid is not None else None
    columns = [*StoredMask._fields]
    for path in _part_paths(parquet_root, "masks"):
        for batch in pq.read_table(_source(path), columns=columns, filters=wanted, partitioning=None).to_batches():
            for row in batch.to_pylist():
                yield StoredMask(**{**row, "mask": decode_mask(row["mask"])})


def _checked_body(data: bytes) -> bytes:
    if len(data) < _FRAME.size + _HEADER.size:
        raise ValueError(f"mask of {len(data)} bytes is shorter than its header")
    magic, version, checksum = _FRAME.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise ValueError(f"not a mask of version {VERSION}: starts with {magic!r} version {version}")
    body = data[_FRAME.size :]
    if zlib.crc32(body) != checksum:
        raise ValueError(f"mask is damaged: its CRC-32 is {zlib.crc32(body):08x}, expected {checksum:08x}")
    return body


def _unpack(stream: bytes, shape: tuple[int, ...]) -> BoolArray:
    """Bits of a zlib stream that must hold exactly this many voxels, never inflating more."""
    n_voxels = math.prod(shape)
    expected = (n_voxels + 7) // 8
    inflater = zlib.decompressobj()
    try:
        bits = inflater.decompress(stream, expected + 1)
    except zlib.error as error:
        raise ValueError(f"mask is damaged: {error}") from error
    if len(bits) != expected or not inflater.eof or inflater.unused_data:
        raise ValueError(f"mask box {shape} does not hold {expected} bytes of voxels")
    voxels = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=n_voxels)
    return voxels.view(np.bool_).reshape(shape)


def _write(table: pa.Table, path: AnyPath) -> None:
    if not isinstance(path, RemotePath):
        pq.write_table(table, path, compression="zstd")
        return
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    path.write_bytes(buffer.getvalue())


def _source(path: AnyPath) -> Any:
    """What pyarrow reads a file from; an object is fetched whole."""
    return pa.BufferReader(path.read_bytes()) if isinstance(path, RemotePath) else path


def _part_paths(parquet_root: AnyPath, dataset: str) -> list[AnyPath]:
    return matches(parquet_root / dataset, "run_id=*/part-*.parquet")
