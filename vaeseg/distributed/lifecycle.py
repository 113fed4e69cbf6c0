"""Signs of life, and an orderly end: heartbeats, and what Ctrl-C and SIGTERM do."""

from __future__ import annotations

import logging
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any, TypeVar

from vaeseg.db.coverage import Coverage
from vaeseg.db.drivers import heartbeat, take_archive, take_up
from vaeseg.db.runs import EndStatus, finish_run, start_run
from vaeseg.db.session import Database
from vaeseg.errors import StoreError, VaesegError

logger = logging.getLogger(__name__)

T = TypeVar("T")

STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_SECONDS = 0.5
"""How long a signal waits to be noticed, at most."""
STOP_SECONDS = 10.0
"""How long an interrupted run waits for its pipeline to wind up; what is left ends with the process."""
HANDED_OVER = 8
"""Finished series that wait for the driver."""
HEARTBEAT_SECONDS = 15.0
"""A quarter of the silence after which a run counts as lost."""


class RunInterruptedError(VaesegError):
    """The run was stopped by Ctrl-C or SIGTERM; what was finished is kept."""


@contextmanager
def heartbeats(database: Database, run_id: str, on_cancel: Callable[[], None]) -> Iterator[None]:
    """Drive the run from here on, and say every few seconds that it lives, from a thread: workers never write.

    Args:
        database: where its row is.
        run_id: whose.
        on_cancel: called, perhaps more than once, when somebody asked the run to stop.

    Raises:
        UsageError: another process drives it.
        StoreError: the database cannot be written.
    """
    stopped = threading.Event()
    if take_up(database, run_id):
        on_cancel()

    def beat() -> None:
        while not stopped.wait(HEARTBEAT_SECONDS):
            try:
                if heartbeat(database, run_id):
                    on_cancel()
            except StoreError as error:
                logger.debug("no heartbeat: %s", error)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def finish_quietly(database: Database, run_id: str, status: EndStatus, coverage: Coverage | None = None) -> None:
    """Record the end of a run that this process drives, if the database still can.

    The error that brought us here matters more; a run that another process has taken up goes on.
    """
    try:
        finish_run(database, run_id, status, coverage=coverage, only_if_driven_here=True)
    except StoreError as error:
        logger.debug("the end of run %s was not recorded: %s", run_id, error)


class Interruption:
    """Set by a signal or by `vaeseg-batch cancel`, looked at where it is safe to stop.

    An exception out of a signal handler would strike inside Ray or SQLAlchemy, locks held, and hang what comes after.
    """

    def __init__(self, how_to_go_on: str) -> None:
        self._how_to_go_on = how_to_go_on
        self._reason: str | None = None

    @property
    def signalled(self) -> bool:
        """Whether it was set."""
        return self._reason is not None

    def set(self, number: int) -> None:
        """Remember a signal."""
        self._reason = f"interrupted by {signal.Signals(number).name}"

    def cancel(self) -> None:
        """Remember that somebody asked the run to stop."""
        self._reason = self._reason or "cancelled"

    def check(self) -> None:
        """Stop here if it was set.

        Raises:
            RunInterruptedError: it was.
        """
        if self._reason is not None:
            raise RunInterruptedError(f"{self._reason}; {self._how_to_go_on}")


@contextmanager
def interruptible(how_to_go_on: str = "run it again to go on") -> Iterator[Interruption]:
    """Note Ctrl-C and SIGTERM instead of dying of them; a second one has the effect it has without us.

    Args:
        how_to_go_on: told to whoever stopped it.
    """
    interruption = Interruption(how_to_go_on)
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    previous = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}

    def note(number: int, _frame: FrameType | None) -> None:
        interruption.set(number)
        _restore(previous)

    for number in STOPPING_SIGNALS:
        signal.signal(number, note)
    try:
        yield interruption
    finally:
        _restore(previous)


@contextmanager
def archives_held(
    database: Database, kind: str, archive_ids: Sequence[int]
) -> Iterator[tuple[str, Callable[[], None]]]:
    """A run that has some archives for itself; its id, and what to call where it is safe to stop.

    Args:
        database: where.
        kind: of the run.
        archive_ids: which.

    Raises:
        ArchiveBusyError: another run has one of them and is alive.
        RunInterruptedError: Ctrl-C, SIGTERM or `cancel`.
        StoreError: the database cannot be written.
    """
    run_id = start_run(database, kind=kind, archive_id=None, model_digest=None, config_json="{}", config_digest="")
    try:
        for archive_id in archive_ids:
            take_archive(database, archive_id, run_id)
        with interruptible() as interruption, heartbeats(database, run_id, interruption.cancel):
            yield run_id, interruption.check
    except VaesegError as error:
        finish_quietly(database, run_id, "interrupted" if isinstance(error, RunInterruptedError) else "failed")
        raise
    finish_run(database, run_id, "finished")


def consume_in_thread(
    produce: Callable[[], Generator[T]], check: Callable[[], None], handed_over: int = HANDED_OVER
) -> Generator[T]:
    """Iterate in another thread, so that this one stays free to stop.

    Args:
        produce: makes the iterator; it runs in a daemon thread.
        check: called between items and every `POLL_SECONDS`; whatever it raises ends the iteration.
        handed_over: items that may wait for this thread.

    Raises:
        Exception: whatever the iterator raises.
    """
    handed: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=handed_over)
    stopped = threading.Event()

    def offer(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                handed.put((kind, value), timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def pump() -> None:
        try:
            with closing(produce()) as items:
                if not all(offer("item", item) for item in items):
                    return
            offer("end", None)
        except Exception as error:  # noqa: BLE001 - handed over, and raised in the thread that waits for it
            offer("error", error)

    thread = threading.Thread(target=pump, name="pipeline", daemon=True)
    thread.start()
    try:
        yield from _received(handed, check)
    finally:
        stopped.set()
        thread.join(timeout=STOP_SECONDS)


def _received(handed: queue.Queue[tuple[str, Any]], check: Callable[[], None]) -> Iterator[Any]:
    while True:
        check()
        try:
            kind, value = handed.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if kind == "error":
            raise value
        if kind == "end":
            return
        yield value


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
