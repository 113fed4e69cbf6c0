"""Functions over many items, as tasks."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest
from ray import cloudpickle

from vaeseg.distributed import spread
from vaeseg.distributed.failures import PipelineError
from vaeseg.distributed.spread import here_at_first, on_ray
from vaeseg.errors import ClusterError, StoreError

pytestmark = pytest.mark.usefixtures("ray_session")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker can import it
ITEMS = [str(number) for number in range(200)]


def twice(mark: str, item: str) -> Iterator[str]:
    yield f"{mark}{item}"
    yield f"{mark}{item}"


def slow_pid(item: str) -> list[str]:
    time.sleep(0.03)
    return [f"{item} {os.getpid()}"]


def slow_at_first(item: str) -> list[str]:
    time.sleep(0.03 if item == "0" else 0)
    return [item]


def slow_from(first: int, item: str) -> list[str]:
    time.sleep(0.05 if int(item) >= first else 0.005)
    return [item]


def dies(directory: Path, n_times: int, item: str) -> list[str]:
    """The process does, the first times that it has item 3."""
    deaths = len(list(directory.iterdir()))
    if item == "3" and deaths < n_times:
        (directory / str(deaths)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [item]


def refuses(error: Exception, _: str) -> list[str]:
    raise error


def notes(directory: Path, item: str) -> list[str]:
    time.sleep(0.2)
    (directory / item).touch()
    return [item]


def nothing() -> None:
    """A check that lets everything go on."""


def test_every_item_is_done_once_however_many_there_are() -> None:
    """Three times as many as are given to Ray at once, in any order; the same as here."""
    function = partial(twice, "a")
    assert len(ITEMS) > 3 * spread.TASKS_AT_ONCE
    assert sorted(on_ray(function, ITEMS, nothing)) == sorted(here_at_first(function, ITEMS, nothing))
    assert list(on_ray(function, [], nothing)) == []


def test_what_is_left_after_some_seconds_is_done_by_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done twice or not at all where the one ends and the other begins."""
    monkeypatch.setattr(spread, "HERE_SECONDS", 0.1)
    monkeypatch.setattr(spread, "SOON_SECONDS", 0)
    pids = dict(pair.split() for pair in here_at_first(slow_pid, ITEMS[:20], nothing))
    assert sorted(pids) == sorted(ITEMS[:20])
    here = [item for item in ITEMS[:20] if pids[item] == str(os.getpid())]
    assert here == ITEMS[: len(here)]
    assert 0 < len(here) < 20


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if none were up; what is given to it is done elsewhere."""

    def on_ray(_function: spread.Function, items: Sequence[str], _check: Callable[[], None]) -> Iterator[str]:
        spread.start_local_ray()
        yield from (f"{item} elsewhere" for item in items)

    monkeypatch.setattr(spread, "HERE_SECONDS", 0)
    monkeypatch.setattr(spread, "on_ray", on_ray)
    monkeypatch.setattr(spread.ray, "is_initialized", lambda: False)
    return monkeypatch


def test_work_goes_on_here_while_ray_starts(tmp_path: Path, no_ray: pytest.MonkeyPatch) -> None:
    """A start that takes until item 7 is done hinders nobody; what is left then is given away."""
    until = time.monotonic() + 60

    def start() -> None:
        while not (tmp_path / "7").exists() and time.monotonic() < until:
            time.sleep(0.01)

    no_ray.setattr(spread, "start_local_ray", start)
    done = list(here_at_first(partial(notes, tmp_path), ITEMS[:20], nothing))
    n_here = len(list(tmp_path.iterdir()))
    assert done == ITEMS[:n_here] + [f"{item} elsewhere" for item in ITEMS[n_here:20]]
    assert 8 <= n_here < 20


@pytest.mark.parametrize(("soon_seconds", "n_here"), [(60, 20), (0, 1)])
def test_what_will_soon_be_done_is_not_given_away(no_ray: pytest.MonkeyPatch, soon_seconds: float, n_here: int) -> None:
    """Workers would need longer to import what they need."""
    assert done_with_ray_up(no_ray, soon_seconds, ITEMS[:20])[:n_here] == ITEMS[:n_here]
    assert sum(map(str.isdecimal, done_with_ray_up(no_ray, soon_seconds, ITEMS[:20]))) == n_here


def test_a_soon_that_does_not_come_is_believed_once(no_ray: pytest.MonkeyPatch) -> None:
    """Quick items say nothing of slow ones behind them; one that is left may take a night too."""
    slow_end = partial(slow_from, 5)
    assert sum(map(str.isdecimal, done_with_ray_up(no_ray, 0.1, ITEMS[:20], slow_end))) in range(6, 10)
    assert sum(map(str.isdecimal, done_with_ray_up(no_ray, 0.02, ITEMS[:2]))) == 1


def test_what_has_no_known_end_is_given_away(no_ray: pytest.MonkeyPatch) -> None:
    """It may be a night's work."""
    assert done_with_ray_up(no_ray, 60, (item for item in ITEMS)) == ["0", *(f"{item} elsewhere" for item in ITEMS[1:])]


@pytest.mark.parametrize(("long_seconds", "is_list", "n_here"), [(0.1, True, 1), (60, True, 20), (0.1, False, 20)])
def test_a_ray_is_started_at_once_for_much(
    no_ray: pytest.MonkeyPatch, long_seconds: float, is_list: bool, n_here: int
) -> None:
    """Long before the driver would ask for it otherwise; of what has no known end, nobody knows that it is much."""
    no_ray.setattr(spread, "LONG_SECONDS", long_seconds)
    no_ray.setattr(spread, "PACE_SECONDS", 0.02)
    items = ITEMS[:20] if is_list else (item for item in ITEMS[:20])
    assert sum(map(str.isdecimal, done_with_ray_up(no_ray, 0, items, here_seconds=60))) == n_here


def done_with_ray_up(
    no_ray: pytest.MonkeyPatch,
    soon_seconds: float,
    items: Iterable[str],
    function: Callable[[str], list[str]] = slow_at_first,
    here_seconds: float = 0.02,
) -> list[str]:
    """Where it is after the first item, which takes a while."""
    up: Future[None] = Future()
    up.set_result(None)
    no_ray.setattr(spread, "_ray_beside", lambda: up)
    no_ray.setattr(spread, "start_local_ray", nothing)
    no_ray.setattr(spread, "HERE_SECONDS", here_seconds)
    no_ray.setattr(spread, "SOON_SECONDS", soon_seconds)
    return list(here_at_first(function, items, nothing))


def test_a_ray_that_cannot_start_is_told_of_where_it_is_needed(tmp_path: Path, no_ray: pytest.MonkeyPatch) -> None:
    """Not where all was done before; the end waits for it: a Ray that still starts would outlive the command."""
    over: list[bool] = []

    def fail() -> None:
        time.sleep(0.5)
        over.append(True)
        raise ClusterError("no")

    no_ray.setattr(spread, "start_local_ray", fail)
    assert list(here_at_first(partial(notes, tmp_path), ITEMS[:1], nothing)) == ITEMS[:1]
    assert over == [True]
    with pytest.raises(ClusterError, match=r"^no$"):
        list(here_at_first(partial(notes, tmp_path), ITEMS[:20], nothing))


def test_a_task_whose_process_dies_is_tried_once_more(tmp_path: Path) -> None:
    """And no more often: a file that kills whoever reads it must not hang the night."""
    assert sorted(on_ray(partial(dies, tmp_path, 1), ITEMS[:5], nothing)) == ITEMS[:5]
    with pytest.raises(PipelineError, match=r"^Ray ended the scan: .+; scan again to go on$"):
        list(on_ray(partial(dies, tmp_path, 9), ITEMS[:5], nothing))
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreError("the store is full"), r"vaeseg\.errors\.StoreError: the store is full"),
        (OSError(errno.ESTALE, "Stale file handle", "/archive/DOE^JANE"), r"OSError at test_spread\.py:\d+"),
    ],
)
def test_what_a_function_raises_ends_the_whole(error: Exception, said: str) -> None:
    """Without a traceback; and without words that are not ours, which may quote a path."""
    with pytest.raises(PipelineError, match=f"^Ray ended the scan: {said}; scan again to go on$"):
        list(on_ray(partial(refuses, error), ITEMS, nothing))


def stopping_after(n_checks: int) -> Callable[[], None]:
    checks = iter(range(n_checks))

    def check() -> None:
        if next(checks, None) is None:
            raise KeyboardInterrupt

    return check


def test_tasks_that_wait_are_cancelled_when_it_is_stopped(tmp_path: Path) -> None:
    """What did not begin never does."""
    with pytest.raises(KeyboardInterrupt):
        list(on_ray(partial(notes, tmp_path), ITEMS, stopping_after(3)))
    done, before = 0, -1
    while done != before:
        time.sleep(2)
        done, before = len(list(tmp_path.iterdir())), done
    assert done < spread.TASKS_AT_ONCE
