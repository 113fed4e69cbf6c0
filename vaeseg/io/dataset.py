"""Reading a prepared data set.

    <location>/manifest.json                   what it is, and the digests of all of it
    <location>/slices/part-00000.parquet ...   a row a slice, in the order of the subjects
    <location>/splits_final.json               by subject, in nnU-Net's manner; one entry a fold
    <location>/splits_slices.json              by slice, as the paper has it

What is checked when: opening checks the manifest against its own digest, and that every shard is there with its size.
Each row group that is read is checked against its SHA-256; the index is checked when it is first asked for. Damage is a
`StoreError` that names the file. N slices, S side of the model grid.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vaeseg.errors import StoreError, UsageError
from vaeseg.io.dataset_manifest import (
    MANIFEST_NAME,
    SLICES_DIRECTORY,
    Manifest,
    NewerFormatError,
    Shard,
    manifest_from_json,
)
from vaeseg.io.dataset_writer import SLICE_SPLITS_NAME, SUBJECT_SPLITS_NAME
from vaeseg.io.location import Location, locate
from vaeseg.io.row_groups import (
    INDEX_COLUMNS,
    PIXEL_COLUMNS,
    ROW_GROUP_SLICES,
    IndexDigest,
    pixels_digest,
    slices_of,
)
from vaeseg.io.slices import Pixels, SliceIndex, SliceSet
from vaeseg.io.splits import Split, SplitKind, split_of_fold
from vaeseg.records import IntArray

_UNREADABLE = (OSError, pa.ArrowException, ValueError, KeyError)
"""What pyarrow raises at a damaged file, depending on where the damage is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """A prepared data set; pixels, index and splits are read when they are asked for."""

    location: str
    """Absolute path or URL; `open_data_set(location)` opens it again, in another process too."""
    manifest: Manifest
    place: Location

    def __len__(self) -> int:
        return self.manifest.n_slices

    @cached_property
    def index(self) -> SliceIndex:
        """Everything but pixels.

        Raises:
            StoreError: a shard is damaged.
        """
        digest = IndexDigest()
        tables = [self._index_columns(shard, digest) for shard in self.manifest.shards]
        if digest.hexdigest() != self.manifest.index_sha256:
            raise StoreError(f"the index of the data set {self.location} is damaged: prepare it again")
        return _index(self.manifest, pa.concat_tables(tables))

    @cached_property
    def splits(self) -> Mapping[SplitKind, tuple[Split, ...]]:
        """Folds by kind; none by subject where there are too few subjects.

        Raises:
            StoreError: a splits file is missing or does not fit the data set.
        """
        return {
            "subject": self._splits("subject", SUBJECT_SPLITS_NAME),
            "slice": self._splits("slice", SLICE_SPLITS_NAME),
        }

    @cached_property
    def row_group_of_slice(self) -> IntArray:
        """(N,) the row group that holds each slice, ascending from 0; `read_row_group` reads one."""
        return np.arange(len(self)) // ROW_GROUP_SLICES

    def read(self, indices: IntArray | None = None) -> SliceSet:
        """Pixels of some slices, in the order given, or of all; reads only the row groups that hold them.

        Args:
            indices: (M,) slice indices; one may come twice.

        Raises:
            IndexError: no such slice.
            StoreError: a shard is damaged.
        """
        wanted = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.intp)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"slices {wanted.min()} to {wanted.max()} of a data set of {len(self)}")
        images, labels = self._allocated(len(wanted))
        groups = self.row_group_of_slice[wanted]
        for group in np.unique(groups):
            places = np.flatnonzero(groups == group)
            part = self.read_row_group(int(group)).take(wanted[places] - group * ROW_GROUP_SLICES)
            images[places] = part.images
            if labels is not None and part.packed_labels is not None:
                labels[places] = part.packed_labels
        return SliceSet(images=images, packed_labels=labels)

    def read_row_group(self, n: int) -> SliceSet:
        """Pixels of one row group: its slices follow each other, and are `ROW_GROUP_SLICES` but in the last.

        Raises:
            IndexError: no such row group.
            StoreError: the shard is damaged.
        """
        shard, group = self._shard_of(n)
        try:
            with self._opened(shard) as file:
                table = file.read_row_group(group, columns=list(PIXEL_COLUMNS))
            slices = slices_of(table, self.manifest.row_format)
        except _UNREADABLE as error:
            raise self._damaged(shard, error) from error
        if pixels_digest(slices) != shard.row_groups[group]:
            raise self._damaged(shard, ValueError(f"row group {group} is not what was written"))
        return slices

    def _shard_of(self, n: int) -> tuple[Shard, int]:
        left = n
        for shard in self.manifest.shards:
            if 0 <= left < len(shard.row_groups):
                return shard, left
            left -= len(shard.row_groups)
        raise IndexError(f"row group {n} of a data set of {len(self)} slices")

    def _allocated(self, n: int) -> tuple[Pixels, npt.NDArray[np.uint8] | None]:
        row = self.manifest.row_format
        images = np.empty((n, row.image_size, row.image_size), dtype=row.dtype.newbyteorder("="))
        return images, np.empty((n, *row.label_shape), dtype=np.uint8) if row.with_labels else None

    def _index_columns(self, shard: Shard, digest: IndexDigest) -> pa.Table:
        schema = self.manifest.row_format.schema
        try:
            with self._opened(shard) as file:
                table = file.read(columns=list(INDEX_COLUMNS)).select(list(INDEX_COLUMNS))
            if table.schema.types != [schema.field(name).type for name in INDEX_COLUMNS]:
                raise ValueError("its columns are of other types")
            digest.update(table)
        except _UNREADABLE as error:
            raise self._damaged(shard, error) from error
        return table

    @contextmanager
    def _opened(self, shard: Shard) -> Iterator[Any]:
        with self.place.open(f"{SLICES_DIRECTORY}/{shard.name}") as file:
            yield pq.ParquetFile(file, page_checksum_verification=True)

    def _damaged(self, shard: Shard, cause: Exception) -> StoreError:
        reason = str(cause).partition("\n")[0]
        return StoreError(f"{SLICES_DIRECTORY}/{shard.name} in {self.location} is damaged ({reason}): prepare it again")

    def _splits(self, kind: SplitKind, name: str) -> tuple[Split, ...]:
        try:
            folds = json.loads(self.place.read(name))
            return tuple(split_of_fold(kind, fold, self.index) for fold in folds)
        except FileNotFoundError as error:
            raise StoreError(f"{self.location} has no {name}: prepare it again") from error
        except (ValueError, TypeError) as error:
            raise StoreError(f"{name} in {self.location} cannot be used: {error}") from error


def open_data_set(location: str) -> DataSet:
    """Open a data set by path or URL; cheap: no pixel is read.

    Raises:
        UsageError: there is none, or it was written by a newer vaeseg.
        StoreError: its manifest is damaged, or a shard is missing or has another size.
    """
    place = locate(location)
    try:
        text = place.read(MANIFEST_NAME)
    except FileNotFoundError as error:
        raise UsageError(
            f"{location} is no data set (no {MANIFEST_NAME}): make one with 'vaeseg-batch prepare'"
        ) from error
    try:
        manifest = manifest_from_json(text)
    except NewerFormatError as error:
        raise UsageError(f"{MANIFEST_NAME} in {location} cannot be read: {error}; update vaeseg") from error
    except ValueError as error:
        raise StoreError(f"{MANIFEST_NAME} in {location} is damaged: {error}; prepare it again") from error
    _check_sizes(place, manifest)
    return DataSet(location=place.url, manifest=manifest, place=place)


def _check_sizes(place: Location, manifest: Manifest) -> None:
    found = place.sizes(SLICES_DIRECTORY)
    for shard in manifest.shards:
        if found.get(shard.name) != shard.n_bytes:
            there = f"{found[shard.name]} bytes" if shard.name in found else "not there"
            raise StoreError(
                f"{SLICES_DIRECTORY}/{shard.name} in {place.url} is {there}, expected {shard.n_bytes} bytes: "
                "prepare it again"
            )


def _index(manifest: Manifest, table: pa.Table) -> SliceIndex:
    counts = [subject.n_slices for subject in manifest.subjects]
    slice_of_series = _numbers(table, "slice_index", np.int32)
    is_first = slice_of_series == 0  # a volume is written whole
    return SliceIndex(
        subjects=tuple(subject.name for subject in manifest.subjects),
        subject_of_slice=np.repeat(np.arange(len(counts)), counts),
        slice_of_subject=np.concatenate([np.arange(count) for count in counts]),
        series=tuple(table.column("series").filter(pa.array(is_first)).to_pylist()),
        series_of_slice=np.cumsum(is_first) - 1,
        slice_of_series=slice_of_series,
        spacing_mm=np.stack([_numbers(table, f"spacing_{axis}_mm", np.float32) for axis in "kji"], axis=1),
        tumour_pixels=_numbers(table, "tumour_pixels", np.int32)
        if manifest.with_labels
        else np.zeros(len(table), dtype=np.int32),
        has_labels=manifest.with_labels,
        tokens=tuple(subject.tokens for subject in manifest.subjects),
    )


def _numbers(table: pa.Table, name: str, dtype: type[Any]) -> npt.NDArray[Any]:
    return np.asarray(table.column(name).to_numpy(), dtype=dtype)
