"""Slices of a data set that is larger than memory, read ahead by Ray Data in the order in which they are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import ray.data
import torch
from ray.data import TaskPoolStrategy

from vaeseg.distributed.ray_data import presented
from vaeseg.errors import StoreError, VaesegError
from vaeseg.io.dataset import DataSet, open_data_set
from vaeseg.io.slices import SliceSet
from vaeseg.records import IntArray
from vaeseg.training.batches import Batch
from vaeseg.training.sources import batch_of

READERS = 4
"""Tasks at a time that read ahead for one worker, however many cores there are: each takes 230 MiB, mostly torch."""


class StreamedSource:
    """The slices of step after step, a row group at a time.

    Each row group that a worker needs is read once an epoch, and kept until the last step that needs it. The order of
    `training.batches.epoch_order` sees to it that these are few at a time: about two shuffle windows.

    Args:
        data: the data set; every node that runs a reading task must see its location.
        device: where batches are wanted.

    Raises:
        StoreError: while it is read, the data set is damaged, or was prepared again.
    """

    def __init__(self, data: DataSet, device: torch.device) -> None:
        self._data = data
        self._device = device

    def steps(self, parts: Iterable[IntArray]) -> Iterator[Batch]:
        """See `training.sources.SliceSource.steps`."""
        parts = list(parts)
        group_of_slice = self._data.row_group_of_slice
        needed = [np.unique(group_of_slice[part]) for part in parts]
        arriving = self._row_groups(_first_need(needed))
        last_step = {int(group): step for step, groups in enumerate(needed) for group in groups}
        held: dict[int, SliceSet] = {}
        for step, part in enumerate(parts):
            while not held.keys() >= set(needed[step].tolist()):
                group, slices = next(arriving)
                held[group] = slices
            yield batch_of(self._picked(part, held), self._device)
            held = {group: slices for group, slices in held.items() if last_step[group] > step}

    def _picked(self, part: IntArray, held: Mapping[int, SliceSet]) -> SliceSet:
        """The slices of one step, in its order, out of the row groups that hold them."""
        groups = self._data.row_group_of_slice[part]
        first = np.searchsorted(self._data.row_group_of_slice, groups)
        chosen = [held[int(group)].take(np.array([place])) for group, place in zip(groups, part - first, strict=True)]
        labels = [slices.packed_labels for slices in chosen if slices.packed_labels is not None]
        return SliceSet(
            images=np.concatenate([slices.images for slices in chosen]),
            packed_labels=np.concatenate(labels) if labels else None,
        )

    def _row_groups(self, groups: Sequence[int]) -> Iterator[tuple[int, SliceSet]]:
        """Row groups in the order given, decoded by Ray tasks somewhere in the cluster."""
        dataset = ray.data.from_items([{"group": group} for group in groups], override_num_blocks=len(groups))
        dataset.context.execution_options.preserve_order = True
        expected = {"location": self._data.location, "digest": self._data.manifest.digest}
        readers = TaskPoolStrategy(size=min(READERS, len(groups)))
        read = dataset.map(_read_row_group, fn_kwargs=expected, compute=readers)
        for row in presented(read, "slices").iter_rows():
            if "error" in row:
                raise row["error"]
            yield row["group"], SliceSet(images=row["images"], packed_labels=row.get("labels"))


def _first_need(needed: Sequence[IntArray]) -> list[int]:
    return list(dict.fromkeys(int(group) for groups in needed for group in groups))


@lru_cache(maxsize=1)
def _opened(location: str, digest: str) -> DataSet:
    """Opened once in each process that reads; perhaps long after the training itself has opened it."""
    data = open_data_set(location)
    if data.manifest.digest != digest:
        raise StoreError(
            f"the data set {location} was prepared again while a training reads it (digest "
            f"{data.manifest.digest[:12]}, expected {digest[:12]}): train on it from the start, with --force"
        )
    return data


def _read_row_group(row: dict[str, Any], location: str, digest: str) -> dict[str, Any]:
    """Our own errors are values: they would come again, and Ray makes others of them."""
    try:
        slices = _opened(location, digest).read_row_group(row["group"])
    except VaesegError as error:
        return {"group": row["group"], "error": error}
    read = {"group": row["group"], "images": slices.images}
    return read if slices.packed_labels is None else {**read, "labels": slices.packed_labels}
