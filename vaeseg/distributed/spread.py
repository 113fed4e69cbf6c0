"""One function over many items: here where they are few, as Ray Data tasks where they are many."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import ray
from ray.data import DataContext
from ray.exceptions import RayError

from vaeseg.distributed.batch import TASK_RETRIES, PipelineError, last_line
from vaeseg.distributed.lifecycle import consume_in_thread
from vaeseg.distributed.local import start_local_ray
from vaeseg.distributed.naming import name_of, named

MAX_BLOCKS = 64
"""Tasks into which the items are divided."""
HANDED_OVER = 64
"""Results that wait for the driver."""

Function = Callable[[str], Iterable[str]]
"""Text to texts, so that any machine understands both; raising ends the whole."""


def here(function: Function, items: Sequence[str], check: Callable[[], None]) -> Iterator[str]:
    """All results, one item after the other.

    Args:
        function: of an item.
        items: in order.
        check: called before each; what it raises ends the iteration.
    """
    for item in items:
        check()
        yield from function(item)


def on_ray(function: Function, items: Sequence[str], check: Callable[[], None]) -> Iterator[str]:
    """All results in no particular order, from tasks on the cluster.

    Args:
        function: of an item; it must be possible to pickle it.
        items: any number.
        check: called between results and at least once a second; what it raises ends the iteration.

    Raises:
        PipelineError: Ray or the function failed.
    """

    def produce() -> Generator[str]:
        start_local_ray()
        yield from _results(function, items)

    yield from consume_in_thread(produce, check, handed_over=HANDED_OVER)


def _results(function: Function, items: Sequence[str]) -> Iterator[str]:
    def apply(row: dict[str, Any]) -> list[dict[str, str]]:
        return [{"result": result} for result in function(row["item"])]

    apply.__name__ = name_of(function)  # which the dashboard shows
    with warnings.catch_warnings():
        # Ray warns of its own settings; max_retries has no other way in until Ray 2.64, and 2.60 is pinned
        warnings.simplefilter("ignore")
        context = DataContext.get_current()
        context.max_errored_blocks = 0
        context.enable_progress_bars = False
        rows = ray.data.from_items([{"item": item} for item in items], override_num_blocks=min(len(items), MAX_BLOCKS))
        dataset = named(rows.flat_map(apply, num_cpus=1, max_retries=TASK_RETRIES), name_of(function))
    try:
        for row in dataset.iter_rows():
            yield row["result"]
    except RayError as error:
        raise PipelineError(f"Ray ended the scan: {last_line(error)}; scan again to go on") from error
