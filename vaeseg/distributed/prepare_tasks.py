"""Items of a data set read by Ray Data tasks, one a block, so that a decoder that dies costs one item."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any, TypedDict, cast

import numpy as np
import ray
from ray.exceptions import RayError

from vaeseg.config import ReadingConfig
from vaeseg.distributed.batch import TASK_MEMORY_BYTES
from vaeseg.distributed.failures import TASK_RETRIES, PipelineError, cause_of
from vaeseg.distributed.lifecycle import consume_in_thread
from vaeseg.distributed.local import RayChatter, start_local_ray, stop_local_ray
from vaeseg.distributed.ray_data import presented
from vaeseg.distributed.reading import die_after
from vaeseg.distributed.stage import where
from vaeseg.io.dataset_manifest import Recipe, RefusedItem
from vaeseg.io.row_groups import RowFormat
from vaeseg.io.slices import PreparedVolume, SliceSet
from vaeseg.records import Reason
from vaeseg.training.preparation import PreparationItem, prepare_item

logger = logging.getLogger(__name__)

HANDED_OVER = 2
"""Finished items that wait for the driver: a volume of 600 slices is 44 MB at 256 x 256 in 8 bits."""


class PreparedRow(TypedDict):
    """An item on its way from a worker to the driver."""

    number: int
    refused: dict[str, str]
    """Empty where there are slices."""
    tokens: list[str]
    warnings: list[str]
    spacing_mm: list[float]
    images: bytes
    labels: bytes


def prepared_items(
    items: Sequence[PreparationItem],
    recipe: Recipe,
    reading: ReadingConfig,
    row_format: RowFormat,
    check: Callable[[], None],
) -> Iterator[tuple[int, PreparedVolume | RefusedItem]]:
    """Each item that does not crash, by its number and in order, on a Ray of its own unless this process has one.

    Args:
        items: any number.
        recipe: what slices are made of them.
        reading: bounds on a file.
        row_format: of the slices.
        check: called between items and every second; what it raises ends the iteration.

    Raises:
        PipelineError: Ray failed.
    """
    if not items:
        return
    ray_is_ours = not ray.is_initialized()

    def produce() -> Generator[PreparedRow]:
        start_local_ray()
        yield from _pipeline(items, recipe, reading, row_format.with_labels)

    with redirect_stdout(RayChatter()):
        for row in consume_in_thread(produce, check, HANDED_OVER):
            yield row["number"], _outcome(row, items[row["number"]], row_format)
        if ray_is_ours:
            stop_local_ray()  # after a failure, threads may be in it still: it ends with the process


def _pipeline(
    items: Sequence[PreparationItem], recipe: Recipe, reading: ReadingConfig, with_labels: bool
) -> Generator[PreparedRow]:
    settings = {"recipe": recipe, "reading": reading, "with_labels": with_labels}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in `batch`
        rows = [{"number": number, "item": item.to_json()} for number, item in enumerate(items)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        dataset.context.execution_options.preserve_order = True
        dataset.context.max_errored_blocks = -1
        dataset = dataset.map(
            prepared_row, fn_kwargs=settings, num_cpus=1, memory=TASK_MEMORY_BYTES, max_retries=TASK_RETRIES
        )
    try:
        for row in presented(dataset, "prepare").iter_rows():
            yield cast(PreparedRow, row)
    except RayError as error:
        raise PipelineError(f"Ray ended the preparation: {cause_of(error)}; the same command starts over") from error


def prepared_row(row: dict[str, Any], recipe: Recipe, reading: ReadingConfig, with_labels: bool) -> PreparedRow:
    """What a worker does: one item, and whatever goes wrong with it becomes a value."""
    item = PreparationItem.from_json(row["item"])
    die_after(reading.decode_timeout_seconds)
    try:
        outcome = prepare_item(item, recipe, reading, with_labels)
    except Exception as error:  # noqa: BLE001 - the per-item boundary: one bad item never stops a preparation
        logger.warning("internal error: %s", where(error))
        outcome = RefusedItem(name=item.name, reason=str(Reason.INTERNAL_ERROR), detail=where(error))
    finally:
        signal.alarm(0)
    return _row(row["number"], outcome)


def _row(number: int, outcome: PreparedVolume | RefusedItem) -> PreparedRow:
    if isinstance(outcome, RefusedItem):
        refused = {"reason": outcome.reason, "detail": outcome.detail}
        return PreparedRow(
            number=number, refused=refused, tokens=[], warnings=[], spacing_mm=[], images=b"", labels=b""
        )
    slices = outcome.slices
    return PreparedRow(
        number=number,
        refused={"reason": "", "detail": ""},
        tokens=list(outcome.tokens),
        warnings=list(outcome.warnings),
        spacing_mm=list(outcome.spacing_mm),
        images=slices.images.tobytes(),
        labels=b"" if slices.packed_labels is None else slices.packed_labels.tobytes(),
    )


def _outcome(row: PreparedRow, item: PreparationItem, row_format: RowFormat) -> PreparedVolume | RefusedItem:
    """The inverse of `_row`."""
    if row["refused"]["reason"]:
        return RefusedItem(name=item.name, **row["refused"])
    size = row_format.image_size
    labels = np.frombuffer(row["labels"], dtype=np.uint8).reshape(-1, *row_format.label_shape)
    first, second, third = row["spacing_mm"]
    return PreparedVolume(
        subject=item.subject,
        series=item.name,
        tokens=tuple(row["tokens"]),
        slices=SliceSet(
            images=np.frombuffer(row["images"], dtype=row_format.dtype).reshape(-1, size, size),
            packed_labels=labels if row_format.with_labels else None,
        ),
        spacing_mm=(first, second, third),
        warnings=tuple(row["warnings"]),
    )
