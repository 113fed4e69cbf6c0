"""When a scan is due: times of a cron expression in a time zone, and the hours of the day in which scans may work.

A planned time that the clock skips (02:30 in the night in which it jumps from 02:00 to 03:00) is the moment of the
jump; one that comes twice is the first of the two. Expressions that begin with a star in minute or hour count real
minutes and hours instead, as Debian's cron does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from vaeseg.errors import UsageError

CRON_FIELDS = 5
"""Minute, hour, day of month, month, day of week; a sixth, for seconds, is refused."""
SOME_DAY = datetime(2024, 1, 1, tzinfo=UTC)
"""An expression without a time in the fifty years after it has none."""
LOOK_BACK = (timedelta(hours=1), timedelta(days=1), timedelta(days=32))
"""Where the last planned time is looked for before all of them are gone through: the usual distances of two."""
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, kw_only=True)
class Window:
    """Hours of the day; past midnight where `closes` is not after `opens`."""

    opens: time
    closes: time

    @classmethod
    def from_text(cls, text: str) -> Window:
        """From ``19:00-07:00``.

        Raises:
            UsageError: it is not of that form, or both times are the same.
        """
        match = _WINDOW.fullmatch(text)
        if match is None or match.group(1, 2) == match.group(3, 4):
            raise UsageError(f"--window {text} is not two times such as 19:00-07:00")
        opens_hour, opens_minute, closes_hour, closes_minute = map(int, match.groups())
        return cls(opens=time(opens_hour, opens_minute), closes=time(closes_hour, closes_minute))

    def around(self, moment: datetime, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
        """Opening and closing moments (UTC), in order, from one that opened at least a day ago to one yet to open."""
        today = moment.astimezone(zone).date()
        for days in (-2, -1, 0, 1, 2):
            first = today + timedelta(days=days)
            last = first if self.opens < self.closes else first + timedelta(days=1)
            yield _utc(datetime.combine(first, self.opens, zone)), _utc(datetime.combine(last, self.closes, zone))


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """Planned times, and the window that a planned time waits for. Checked when it is made.

    Raises:
        UsageError: no such time zone, not a window, not five fields of cron, or an expression without any time.
    """

    cron: str
    timezone: str = "UTC"
    """IANA name, in which `cron` and `window` are meant."""
    window: str | None = None
    """Such as ``19:00-07:00``; None for always."""

    def __post_init__(self) -> None:
        if len(self.cron.split()) != CRON_FIELDS:
            raise UsageError(f'--cron "{self.cron}" is not five fields such as "0 1 * * *"')
        try:
            self.next_time(SOME_DAY)
        except CronSimError as error:
            raise UsageError(
                f'--cron "{self.cron}": {str(error).lower()}; every night at one is "0 1 * * *"'
            ) from error
        _ = self._window

    def next_time(self, after: datetime) -> datetime:
        """The first planned time after a moment; UTC.

        Raises:
            UsageError: there is none in fifty years.
        """
        for planned in CronSim(self.cron, after.astimezone(self._zone)):
            # within an hour that comes twice, the first of the two is looked at again
            if _utc(planned) > after:
                return _utc(planned)
        raise UsageError(f'--cron "{self.cron}" never comes')

    def due(self, handled_until: datetime, now: datetime) -> datetime | None:
        """The last planned time after the one that was handled, up to now; UTC. However many there were, it is one."""
        planned = self.next_time(handled_until)
        if planned > now:
            return None
        near = (self.next_time(now - look_back) for look_back in LOOK_BACK if now - look_back > planned)
        planned = next((later for later in near if later <= now), planned)
        while (following := self.next_time(planned)) <= now:
            planned = following
        return planned

    def is_open(self, now: datetime) -> bool:
        """Whether scans may begin."""
        return self._window is None or self.closes_at(now) is not None

    def closes_at(self, now: datetime) -> datetime | None:
        """End of the window that is open; UTC. None where none is open, or there is no window."""
        if self._window is None:
            return None
        return next((closes for opens, closes in self._window.around(now, self._zone) if opens <= now < closes), None)

    def window_end(self, planned: datetime) -> datetime | None:
        """End of the window that a planned time lies in, or waits for where it lies outside; UTC.

        None where there is no window.
        """
        if self._window is None:
            return None
        return next(closes for _, closes in self._window.around(planned, self._zone) if closes > planned)

    def next_start(self, handled_until: datetime, now: datetime) -> datetime:
        """When the next scan begins, if nothing hinders it: a planned time, or where that is outside the window, its
        next opening; UTC.
        """
        planned = now if self.due(handled_until, now) else self.next_time(max(handled_until, now))
        if self._window is None or self.is_open(planned):
            return planned
        return next(opens for opens, _ in self._window.around(planned, self._zone) if opens > planned)

    def local(self, moment: datetime) -> datetime:
        """A moment in the time zone of the timetable."""
        return moment.astimezone(self._zone)

    @cached_property
    def _zone(self) -> ZoneInfo:
        try:
            return ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:  # unknown; not a name; a directory
            raise UsageError(f"--timezone {self.timezone} is not an IANA name such as Europe/Berlin") from error

    @cached_property
    def _window(self) -> Window | None:
        return None if self.window is None else Window.from_text(self.window)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
