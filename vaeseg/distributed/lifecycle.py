"""Signs of life, and an orderly end: heartbeats, and what Ctrl-C and SIGTERM do."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vaeseg.db.runs import heartbeat
from vaeseg.db.session import Database
from vaeseg.errors import StoreError, VaesegError

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
"""A quarter of the silence after which a run counts as lost."""


class RunInterruptedError(VaesegError):
    """The run was stopped by Ctrl-C or SIGTERM; what was finished is kept."""


@contextmanager
def heartbeats(database: Database, run_id: str) -> Iterator[None]:
    """Say every few seconds that the run lives, from a thread of this process: workers never write."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(HEARTBEAT_SECONDS):
            try:
                heartbeat(database, run_id)
            except StoreError as error:
                logger.debug("no heartbeat: %s", error)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into `RunInterruptedError`; a second one has the effect it has without us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def interrupt(number: int, _frame: FrameType | None) -> None:
        _restore(previous)
        raise RunInterruptedError(f"interrupted by {signal.Signals(number).name}; what was finished is kept")

    for number in previous:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        _restore(previous)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
