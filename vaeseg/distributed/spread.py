"""One function over many items: here for as long as Ray takes to start, and as tasks on Ray if some are left then."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayError

from vaeseg.config import HERE_SECONDS
from vaeseg.distributed.failures import TASK_RETRIES, PipelineError, cause_of
from vaeseg.distributed.lifecycle import consume_in_thread
from vaeseg.distributed.local import start_local_ray

TASKS_AT_ONCE = 64
"""That were given to Ray and whose results were not fetched."""
HANDED_OVER = 64
"""Results that wait for the driver."""

Function = Callable[[str], Iterable[str]]
"""Text to texts, so that any machine understands both; raising ends the whole."""
Spread = Callable[[Function, Sequence[str], Callable[[], None]], Iterator[str]]


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


def here_at_first(function: Function, items: Sequence[str], check: Callable[[], None]) -> Iterator[str]:
    """All results: of one item after the other for `HERE_SECONDS`, then of those that are left as `on_ray` has them."""
    until = time.monotonic() + HERE_SECONDS
    for number, item in enumerate(items):
        if time.monotonic() >= until:
            yield from on_ray(function, items[number:], check)
            return
        yield from here(function, [item], check)


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
    task = ray.remote(_apply).options(
        name=_name_of(function),  # which the dashboard shows
        num_cpus=1,
        max_retries=TASK_RETRIES,
        scheduling_strategy="SPREAD",
    )
    shared = ray.put(function)  # and not a part of the task, which the cluster's head may keep on disk: it has secrets
    coming = iter(items)
    waiting: list[Any] = []
    try:
        while True:
            waiting += [task.remote(shared, item) for item in islice(coming, TASKS_AT_ONCE - len(waiting))]
            if not waiting:
                return
            done, waiting = ray.wait(waiting)
            for ref in done:
                yield from ray.get(ref)
    except RayError as error:
        raise PipelineError(f"Ray ended the scan: {cause_of(error)}; scan again to go on") from error
    finally:
        for ref in waiting:
            ray.cancel(ref)


def _apply(function: Function, item: str) -> list[str]:
    return list(function(item))


def _name_of(function: Function) -> str:
    """The name that a function was defined with, also where some of its arguments are given."""
    name: str = getattr(function.func if isinstance(function, partial) else function, "__name__", "function")
    return name
