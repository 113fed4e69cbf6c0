"""Signals are noted where it is safe to stop; iteration in another thread hands over items and errors alike."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator

import pytest

from vaeseg.distributed.lifecycle import RunInterruptedError, consume_in_thread, interruptible


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
