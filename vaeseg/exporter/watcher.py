"""Looking at the database again and again, so that a scrape costs it nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from vaeseg.db.session import Database
from vaeseg.db.watch import Snapshot, take_snapshot
from vaeseg.errors import VaesegError

logger = logging.getLogger(__name__)

PAUSE_FACTOR = 20
"""A pause is at least so many times as long as what it follows took: no tenth of the time goes into looking, though two
kinds of looks have pauses of their own."""
OVERDUE_SECONDS = 120.0
"""A look that has not ended so long after it was due hangs, unless looks take long here: what was seen before is shown
no more."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a scrape is told."""

    snapshot: Snapshot | None = None
    """None where the last look failed, or none was finished."""
    seconds: float = float("nan")
    """That the last looks that worked took."""
    finished_at: float = float("nan")
    """When the oldest number of the last snapshot was collected, seconds since the epoch."""


class Watcher:
    """Looks at a database and keeps what it saw last.

    Args:
        database: what is looked at; its connections are given back after each look, so that a file that was replaced is
            opened anew.
        volume_threshold_ml: findings above it are large.
        every_seconds: between two looks, at least.
        say: told when the database goes and when it comes back, a line each.
    """

    def __init__(
        self, database: Database, volume_threshold_ml: float, every_seconds: float, say: Callable[[str], None]
    ) -> None:
        self.volume_threshold_ml = volume_threshold_ml
        self.has_looked = threading.Event()
        self._database, self._every_seconds, self._say = database, every_seconds, say
        self._seen = Seen()
        self._has_failed = False
        self._longest_seconds = 0.0
        self._count_at = self._late_at = float("-inf")

    @property
    def seen(self) -> Seen:
        """What was seen last, without the snapshot where the next look is overdue."""
        seen = self._seen
        if time.monotonic() > self._late_at:
            return Seen(seconds=seen.seconds, finished_at=seen.finished_at)
        return seen

    def watch(self, stopped: threading.Event) -> None:
        """Look, and pause, until told to stop."""
        while not stopped.is_set():
            pause = self.look()
            stopped.wait(pause)

    def look(self) -> float:
        """Look once, whatever happens; returns the seconds to pause."""
        started = time.monotonic()
        try:
            snapshot = self._take()
        except Exception as error:  # noqa: BLE001 - nothing that a database does ends the exporter
            self._note_failure(error)
            pause = self._every_seconds
        else:
            self._note_success(snapshot)
            pause = self._pause_after(snapshot.seconds)
        self._longest_seconds = max(self._longest_seconds, time.monotonic() - started)
        self._late_at = time.monotonic() + pause + OVERDUE_SECONDS + 2 * self._longest_seconds
        self.has_looked.set()
        return pause

    def _take(self) -> Snapshot:
        previous = self._seen.snapshot
        is_due = previous is None or time.monotonic() >= self._count_at
        try:
            counts = None if is_due or previous is None else previous.counts
            return take_snapshot(self._database, self.volume_threshold_ml, counts)
        finally:
            self._database.close()

    def _note_success(self, snapshot: Snapshot) -> None:
        previous, counts = self._seen.snapshot, snapshot.counts
        if previous is None or counts is not previous.counts:
            self._count_at = time.monotonic() + self._pause_after(counts.seconds)
        self._seen = Seen(
            snapshot=snapshot, seconds=snapshot.seconds + counts.seconds, finished_at=counts.taken_at.timestamp()
        )
        if self._has_failed:
            self._say("exporter: the database is back")
        self._has_failed = False

    def _note_failure(self, error: Exception) -> None:
        self._seen = Seen(seconds=self._seen.seconds, finished_at=self._seen.finished_at)
        if not self._has_failed:
            what = str(error) if isinstance(error, VaesegError) else f"a look failed: {type(error).__name__}"
            self._say(f"exporter: {what}; looks again every {self._every_seconds:g} s")
            logger.debug("a look failed", exc_info=error)
        self._has_failed = True

    def _pause_after(self, seconds: float) -> float:
        return max(self._every_seconds, PAUSE_FACTOR * seconds)
