"""Writing a prepared data set: volumes in, one after the other; shards out, and the manifest last.

Holds one shard and one volume in memory. Until the manifest is there, there is no data set.
"""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vaeseg.io.dataset_manifest import MANIFEST_NAME, SLICES_DIRECTORY, Manifest, Shard, SubjectEntry
from vaeseg.io.location import Location
from vaeseg.io.row_groups import (
    INDEX_COLUMNS,
    NAME_COLUMNS,
    ROW_GROUP_SLICES,
    IndexDigest,
    RowFormat,
    pixels_digest,
    slices_of,
    table_of,
)
from vaeseg.io.slices import PreparedVolume
from vaeseg.io.splits import Fold, make_folds, slice_unit

SUBJECT_SPLITS_NAME = "splits_final.json"
SLICE_SPLITS_NAME = "splits_slices.json"
OWN_NAMES = frozenset({MANIFEST_NAME, SUBJECT_SPLITS_NAME, SLICE_SPLITS_NAME, SLICES_DIRECTORY})
"""All that lies at a data set's location."""
SHARD_NAME = re.compile(r"part-\d{5,}\.parquet|\.part-[0-9a-f]{16}")
"""Of a shard, or of one that was being written when its writer was killed."""
COMPRESSION, COMPRESSION_LEVEL = "zstd", 1
"""Noise hardly compresses: level 3 saves 5 % and takes up to four times as long (LIDC crops, 8 bits)."""


class DataSetWriter:
    """Volumes in the order of the data set become shards.

    Args:
        location: where; None computes digests and writes nothing.
        row_format: of every row.
    """

    def __init__(self, location: Location | None, row_format: RowFormat) -> None:
        self._location = location
        self._format = row_format
        self._pending: pa.Table = row_format.schema.empty_table()
        self._index = IndexDigest()
        self._subjects: dict[str, SubjectEntry] = {}
        self._shards: list[Shard] = []
        self._shard = _ShardBuffer(row_format)

    def add(self, volume: PreparedVolume) -> None:
        """Append a volume; volumes of one subject follow each other.

        Raises:
            ValueError: its subject was left and came again, or it has slices of another format.
            StoreError: a shard cannot be written.
        """
        table = self._table(volume)
        self._note_subject(volume, table)
        self._index.update(table)
        self._pending = pa.concat_tables([self._pending, table])
        while len(self._pending) >= ROW_GROUP_SLICES:
            self._put_row_group(self._pending.slice(0, ROW_GROUP_SLICES))
            self._pending = self._pending.slice(ROW_GROUP_SLICES)

    def finish(self) -> tuple[tuple[Shard, ...], str, tuple[SubjectEntry, ...]]:
        """Write what is left. Returns shards, digest of the index, and subjects: what the manifest needs.

        Raises:
            StoreError: a shard cannot be written.
        """
        if len(self._pending):
            self._put_row_group(self._pending)
            self._pending = self._pending.slice(len(self._pending))
        self._close_shard()
        return tuple(self._shards), self._index.hexdigest(), tuple(self._subjects.values())

    def _table(self, volume: PreparedVolume) -> pa.Table:
        slices, size = volume.slices, self._format.image_size
        if slices.images.shape[1:] != (size, size) or slices.images.dtype.itemsize * 8 != self._format.bits:
            raise ValueError(f"{slices.images.dtype} slices of {slices.images.shape[1:]} do not fit {self._format}")
        n = len(slices)
        spacing = np.tile(np.array(volume.spacing_mm, dtype=np.float32), (n, 1))
        names = [volume.subject] * n, [volume.series] * n
        return table_of(slices, *names, np.arange(n, dtype=np.int32), spacing, self._format)

    def _note_subject(self, volume: PreparedVolume, table: pa.Table) -> None:
        tumour = table.column("tumour_pixels").to_numpy() if self._format.with_labels else np.zeros(0)
        known = self._subjects.get(volume.subject)
        if known is not None and volume.subject != next(reversed(self._subjects)):
            raise ValueError("the volumes of a subject do not follow each other")
        self._subjects[volume.subject] = SubjectEntry(
            name=volume.subject,
            n_slices=len(table) + (known.n_slices if known else 0),
            n_label_slices=int((tumour > 0).sum()) + (known.n_label_slices if known else 0),
            tokens=tuple(sorted({*volume.tokens, *(known.tokens if known else ())})),
        )

    def _put_row_group(self, rows: pa.Table) -> None:
        self._shard.put(rows)
        if self._shard.n_rows >= self._format.shard_slices:
            self._close_shard()

    def _close_shard(self) -> None:
        if not self._shard.n_rows:
            return
        data, shard = self._shard.finished(f"part-{len(self._shards):05d}.parquet")
        if self._location is not None:
            self._location.write(f"{SLICES_DIRECTORY}/{shard.name}", data)
        self._shards.append(shard)
        self._shard = _ShardBuffer(self._format)


class _ShardBuffer:
    """One Parquet file in the making, compressed, in memory."""

    def __init__(self, row_format: RowFormat) -> None:
        self._format = row_format
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(
            self._sink,
            row_format.schema,
            compression=COMPRESSION,
            compression_level=COMPRESSION_LEVEL,
            use_dictionary=list(NAME_COLUMNS),
            write_statistics=list(INDEX_COLUMNS),
            write_page_checksum=True,
        )
        self._row_groups: list[str] = []
        self.n_rows = 0

    def put(self, rows: pa.Table) -> None:
        self._row_groups.append(pixels_digest(slices_of(rows, self._format)))
        self._writer.write_table(rows, row_group_size=len(rows))
        self.n_rows += len(rows)

    def finished(self, name: str) -> tuple[memoryview, Shard]:
        self._writer.close()
        data = memoryview(self._sink.getvalue())
        shard = Shard(
            name=name,
            n_rows=self.n_rows,
            n_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            row_groups=tuple(self._row_groups),
        )
        return data, shard


def clear(location: Location) -> None:
    """Make the place, empty of a data set or of what an interrupted preparation left; the manifest goes first.

    Raises:
        StoreError: it cannot be made, or something cannot be removed.
    """
    location.make(SLICES_DIRECTORY)
    for name in (MANIFEST_NAME, SUBJECT_SPLITS_NAME, SLICE_SPLITS_NAME):
        location.delete(name)
    for name in location.sizes(SLICES_DIRECTORY):
        if SHARD_NAME.fullmatch(name):
            location.delete(f"{SLICES_DIRECTORY}/{name}")


def publish(location: Location, manifest: Manifest) -> None:
    """Write the splits, then the manifest: from here on there is a data set.

    Raises:
        StoreError: one cannot be written.
    """
    for name, folds in ((SUBJECT_SPLITS_NAME, subject_folds(manifest)), (SLICE_SPLITS_NAME, slice_folds(manifest))):
        location.write(name, (json.dumps(folds, indent=1) + "\n").encode())
    location.write(MANIFEST_NAME, manifest.to_json().encode())


def subject_folds(manifest: Manifest) -> list[Fold]:
    """The folds by subject; none where there are too few different subjects."""
    tokens = [subject.tokens for subject in manifest.subjects]
    names = [subject.name for subject in manifest.subjects]
    return make_folds(names, manifest.recipe.seed, manifest.recipe.n_folds, tokens)


def slice_folds(manifest: Manifest) -> list[Fold]:
    """The folds by slice; none where there are too few slices."""
    units = [slice_unit(subject.name, k) for subject in manifest.subjects for k in range(subject.n_slices)]
    return make_folds(units, manifest.recipe.seed, manifest.recipe.n_folds)
