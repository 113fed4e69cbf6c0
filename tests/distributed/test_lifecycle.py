"""Signals are noted where it is safe to stop; iteration in another thread hands over items and errors alike."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator, Iterator

import pytest
from ledger_factories import Clock, begin_run, scan, series_row

from vaeseg.db.drivers import hand_over, take_up
from vaeseg.db.runs import finish_run
from vaeseg.db.session import Database
from vaeseg.db.summaries import run_summary
from vaeseg.distributed.lifecycle import (
    RunInterruptedError,
    consume_in_thread,
    finish_quietly,
    heartbeats,
    interruptible,
)
from vaeseg.errors import UsageError


def test_a_signal_is_noted_and_raised_at_the_next_check() -> None:
    """Nothing happens when it arrives; `check` raises and names it; handlers are back afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    with interruptible() as interruption:
        interruption.check()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        with pytest.raises(RunInterruptedError, match="SIGTERM"):
            interruption.check()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def usual_sigint() -> Iterator[None]:
    """Python's own handler: a background job of a shell ignores the signal, and so would these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_sigint")
def test_a_second_signal_has_its_usual_effect() -> None:
    """Ctrl-C twice is KeyboardInterrupt."""
    with interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_items_come_in_order_from_another_thread() -> None:
    """More items than are held at once."""
    threads = set()

    def produce() -> Generator[int]:
        for number in range(50):
            threads.add(threading.current_thread().name)
            yield number

    assert list(consume_in_thread(produce, lambda: None)) == list(range(50))
    assert threads == {"pipeline"}


def test_an_error_is_raised_in_the_waiting_thread() -> None:
    """After the items before it."""

    def produce() -> Generator[int]:
        yield 1
        raise OSError("disk")

    received: list[int] = []
    with pytest.raises(OSError, match="disk"):
        received.extend(consume_in_thread(produce, lambda: None))
    assert received == [1]


def test_a_check_ends_a_wait_and_closes_the_producer() -> None:
    """A producer that has nothing to give does not keep the run from stopping."""
    closed, waiting = threading.Event(), threading.Event()

    def produce() -> Generator[int]:
        try:
            while True:
                waiting.wait(0.1)
                yield 0
        finally:
            closed.set()

    def stop() -> None:
        raise RunInterruptedError("stop")

    with pytest.raises(RunInterruptedError):
        list(consume_in_thread(produce, stop))
    assert closed.wait(5)


@pytest.fixture
def run_id(database: Database) -> str:
    return begin_run(database, scan(database, [series_row("1.2.3")]))


def test_a_run_is_taken_up_before_anything_is_done(database: Database, run_id: str) -> None:
    """From whoever submitted it; one that was cancelled while it waited is told so at once."""
    hand_over(database, run_id)
    asked: list[bool] = []
    with heartbeats(database, run_id, lambda: asked.append(True)):
        assert run_summary(database, run_id).status == "running"
    assert asked == []
    finish_run(database, run_id, "interrupted")
    with heartbeats(database, run_id, lambda: asked.append(True)):
        assert asked == [True]


def test_a_run_that_another_process_drives_is_left_alone(
    database: Database, run_id: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be driven here too, and its end is not for us to record."""
    clock.advance(61)
    monkeypatch.setattr("vaeseg.db.drivers.this_process", lambda: "elsewhere; 7 7")
    take_up(database, run_id)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="is running"), heartbeats(database, run_id, lambda: None):
        raise AssertionError
    finish_quietly(database, run_id, "failed")
    assert run_summary(database, run_id).status == "running"
