"""One function over many items: here while there is no Ray to ask, and as tasks on Ray if many are left by then."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from itertools import chain, islice
from operator import length_hint
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from vaeseg.config import HERE_SECONDS
from vaeseg.distributed.failures import TASK_RETRIES, PipelineError, cause_of
from vaeseg.distributed.lifecycle import STOP_SECONDS, consume_in_thread
from vaeseg.distributed.local import start_local_ray
from vaeseg.errors import ClusterError

logger = logging.getLogger(__name__)

TASKS_AT_ONCE = 64
"""That were given to Ray and whose results were not fetched."""
HANDED_OVER = 64
"""Results that wait for the driver."""
WORKER_SECONDS = 0.5
"""A worker takes as long to import what it needs, so that less is done sooner here, even where Ray is up."""
SOON_SECONDS = 1.0
"""What is done here in as long, by the pace so far, is not given to others: all workers of a machine import at once."""
PACE_SECONDS = 1.0
"""After this the pace is known well enough to see that much is left."""
LONG_SECONDS = 2 * HERE_SECONDS
"""What would take longer here, by that pace, is worth a Ray at once."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Function = Callable[[Item], Iterable[Result]]
"""Raising ends the whole. Items and results are pickled where Ray takes them elsewhere."""
Spread = Callable[[Function[Any, Any], Iterable[Any], Callable[[], None]], Iterator[Any]]


def here(function: Function[Item, Result], items: Iterable[Item], check: Callable[[], None]) -> Iterator[Result]:
    """All results, one item after the other.

    Args:
        function: of an item.
        items: in order.
        check: called before each; what it raises ends the iteration.
    """
    for item in items:
        check()
        yield from function(item)


def here_at_first(
    function: Function[Item, Result], items: Iterable[Item], check: Callable[[], None]
) -> Iterator[Result]:
    """All results: of one item after the other while there is no Ray, then of those that are left as `on_ray` has them.

    After `HERE_SECONDS` Ray is started beside, unless by the pace so far all is done within `SOON_SECONDS`, which is
    believed once; after `PACE_SECONDS` where that takes more than `LONG_SECONDS`. The pace says something of a list
    alone. At the end Ray has started, or failed to.
    """
    begun = time.monotonic()
    until = begun + (min(HERE_SECONDS, WORKER_SECONDS) if ray.is_initialized() else HERE_SECONDS)
    started: Future[None] | None = None
    believed = False
    try:
        left = iter(items)
        for n_done, item in enumerate(left):
            now, expected = time.monotonic(), _expected_seconds(begun, n_done, left)
            if now >= until and not believed and expected is not None and expected < SOON_SECONDS:
                believed, until = True, now + SOON_SECONDS
            elif now >= begun + PACE_SECONDS and expected is not None and expected > LONG_SECONDS:
                until = begun
            if now >= until:
                started = started or _ray_beside()
                if started.done():
                    yield from on_ray(function, chain([item], left), check)
                    return
            yield from here(function, [item], check)
    finally:
        if started is not None:
            wait([started], timeout=STOP_SECONDS)


def _expected_seconds(begun: float, n_done: int, left: Iterator[Any]) -> float | None:
    """For the item that is next and those left behind it; None where nobody knows how many those are, or no pace."""
    n_behind = length_hint(left, -1)
    return None if n_behind < 0 or not n_done else (time.monotonic() - begun) * (1 + n_behind) / n_done


def _ray_beside() -> Future[None]:
    """Done when Ray is up, or cannot be started, which is told to whoever needs it."""
    over: Future[None] = Future()
    if ray.is_initialized():
        over.set_result(None)
        return over

    def start() -> None:
        try:
            start_local_ray()
        except ClusterError as error:
            logger.debug("%s", error)
        finally:
            over.set_result(None)

    threading.Thread(target=start, name="ray-start", daemon=True).start()
    return over


def on_ray(function: Function[Item, Result], items: Iterable[Item], check: Callable[[], None]) -> Iterator[Result]:
    """All results in no particular order, from tasks on the cluster.

    Args:
        function: of an item; it must be possible to pickle it.
        items: any number; they are taken in another thread, and no more of them than are needed.
        check: called between results and at least once a second; what it raises ends the iteration.

    Raises:
        PipelineError: Ray or the function failed.
    """

    def produce() -> Generator[Result]:
        start_local_ray()
        yield from _results(function, items)

    yield from consume_in_thread(produce, check, handed_over=HANDED_OVER)


def _results(function: Function[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
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
                yield from map(pickle.loads, ray.get(ref))
    except RayError as error:
        raise PipelineError(f"Ray ended the scan: {cause_of(error)}; scan again to go on") from error
    finally:
        for ref in waiting:
            ray.cancel(ref)


def _apply(function: Function[Item, Result], item: Item) -> list[bytes]:
    """Each result packed by itself: whoever gets them unpacks one at a time, and a tree may have millions of files."""
    return [pickle.dumps(result, pickle.HIGHEST_PROTOCOL) for result in function(item)]


def _name_of(function: Function[Any, Any]) -> str:
    """The name that a function was defined with, also where some of its arguments are given."""
    name: str = getattr(function.func if isinstance(function, partial) else function, "__name__", "function")
    return name
