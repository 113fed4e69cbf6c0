"""Planned times around changes of the clock, nights that were missed, and windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vaeseg.errors import UsageError
from vaeseg.timetable import Timetable

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def started(table: Timetable, since: str, until: str, step: timedelta = timedelta(minutes=5)) -> list[str]:
    """What a scheduler that looks at its clock every five minutes starts."""
    handled_until, now, starts = utc(since), utc(since), []
    while now <= utc(until):
        planned = table.due(handled_until, now)
        if planned is not None and table.is_open(now):
            starts.append(f"{now:%d %H:%M}")
            handled_until = planned
        now += step
    return starts


@pytest.mark.parametrize("minute", [0, 5, 55])
def test_a_job_in_the_hour_that_is_skipped_runs_once(minute: int) -> None:
    """02:30 on 28 March 2027 in Berlin: at the jump (01:00 UTC), and the next night as always."""
    table = Timetable(cron="30 2 * * *", timezone=BERLIN)
    assert started(table, f"2027-03-27T12:{minute:02}", "2027-03-29T12:00") == ["28 01:00", "29 00:30"]


def test_a_job_in_the_hour_that_comes_twice_runs_once() -> None:
    """02:30 on 25 October 2026 in Berlin: the first of the two (00:30 UTC), and the next night as always."""
    table = Timetable(cron="30 2 * * *", timezone=BERLIN)
    assert started(table, "2026-10-24T12:00", "2026-10-26T12:00") == ["25 00:30", "26 01:30"]


@pytest.mark.parametrize("down_until", ["00:31", "00:59", "01:00", "01:15", "01:30", "01:45", "02:00"])
def test_a_scheduler_that_starts_within_the_hour_that_comes_twice(down_until: str) -> None:
    """What was missed is caught up once, what was done is not done again."""
    table = Timetable(cron="30 2 * * *", timezone=BERLIN)
    assert table.due(utc("2026-10-24T00:30"), utc(f"2026-10-25T{down_until}")) == utc("2026-10-25T00:30")
    assert table.due(utc("2026-10-25T00:30"), utc(f"2026-10-25T{down_until}")) is None


def test_a_schedule_made_in_the_second_of_the_two_hours_waits_for_the_next_night() -> None:
    """02:30 has been, although the clock is at 02:10 again."""
    table, made = Timetable(cron="30 2 * * *", timezone=BERLIN), utc("2026-10-25T01:10")
    assert table.next_time(made) == utc("2026-10-26T01:30")
    assert table.due(made, utc("2026-10-25T02:00")) is None


def test_every_half_hour_counts_real_half_hours() -> None:
    """In both nights nothing is left out and nothing doubled."""
    table = Timetable(cron="*/30 * * * *", timezone=BERLIN)
    for night in ("2026-10-25", "2027-03-28"):
        assert len(started(table, f"{night}T00:00", f"{night}T03:55")) == 7


def test_two_times_in_the_skipped_hour_are_one() -> None:
    """Both are the moment of the jump."""
    table = Timetable(cron="0,30 2 * * *", timezone=BERLIN)
    assert started(table, "2027-03-27T12:00", "2027-03-28T12:00") == ["28 01:00"]


@pytest.mark.parametrize("cron", ["0 1 * * *", "* * * * *", "0 1 1 * *", "0 1 29 2 *"])
def test_missed_nights_are_caught_up_once(cron: str) -> None:
    """After two years away: the last planned time, and then nothing until the next."""
    table = Timetable(cron=cron)
    now = utc("2026-11-22T01:30:20")
    planned = table.due(utc("2024-01-01T00:00"), now)
    assert planned is not None
    assert planned <= now < table.next_time(planned)
    assert table.due(planned, now) is None


def test_a_time_is_due_when_it_has_come_and_not_before() -> None:
    """To the second; what was handled is not due."""
    table = Timetable(cron="0 1 * * *")
    assert table.due(utc("2026-11-21T02:00"), utc("2026-11-22T00:59:59")) is None
    assert table.due(utc("2026-11-21T02:00"), utc("2026-11-22T01:00")) == utc("2026-11-22T01:00")
    assert table.due(utc("2026-11-22T01:00"), utc("2026-11-22T01:00")) is None


def test_a_time_outside_the_window_waits_for_it() -> None:
    """Noon each day with a window at night: at its opening; without one, at noon."""
    table = Timetable(cron="0 12 * * *", window="19:00-07:00", timezone=BERLIN)
    assert started(table, "2026-11-20T13:00", "2026-11-22T13:00") == ["21 18:00"]
    assert table.next_start(utc("2026-11-20T13:00"), utc("2026-11-20T13:00")) == utc("2026-11-21T18:00")
    assert started(Timetable(cron="0 12 * * *"), "2026-11-20T13:00", "2026-11-21T13:00") == ["21 12:00"]


def test_a_window_past_midnight() -> None:
    """Open from its first minute to before its last; its end is that of the window that is open."""
    table = Timetable(cron="0 1 * * *", window="19:00-07:00")
    assert [table.is_open(utc(f"2026-11-22T{time}")) for time in ("18:59", "19:00", "00:00", "06:59", "07:00")] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert table.closes_at(utc("2026-11-22T19:00")) == utc("2026-11-23T07:00")
    assert table.closes_at(utc("2026-11-22T06:59")) == utc("2026-11-22T07:00")
    assert table.closes_at(utc("2026-11-22T12:00")) is None
    assert Timetable(cron="0 1 * * *").closes_at(utc("2026-11-22T12:00")) is None


def test_a_window_within_a_day() -> None:
    """One that does not pass midnight."""
    table = Timetable(cron="0 1 * * *", window="01:00-05:30")
    assert table.closes_at(utc("2026-11-22T02:00")) == utc("2026-11-22T05:30")
    assert not table.is_open(utc("2026-11-22T05:30"))
    assert not table.is_open(utc("2026-11-22T23:00"))


def test_the_end_of_a_window_in_the_hour_that_comes_twice_is_its_first() -> None:
    """A window to 02:30 is closed for good at 02:30, not opened again an hour later."""
    table = Timetable(cron="0 1 * * *", window="19:00-02:30", timezone=BERLIN)
    assert table.closes_at(utc("2026-10-25T00:29")) == utc("2026-10-25T00:30")
    assert not table.is_open(utc("2026-10-25T01:10"))


def test_when_the_next_scan_begins() -> None:
    """At the next planned time; at once where one was missed and the window is open."""
    table = Timetable(cron="0 1 * * *", window="19:00-07:00")
    assert table.next_start(utc("2026-11-22T01:00"), utc("2026-11-22T12:00")) == utc("2026-11-23T01:00")
    assert table.next_start(utc("2026-11-20T01:00"), utc("2026-11-22T12:00")) == utc("2026-11-22T19:00")
    assert table.next_start(utc("2026-11-20T01:00"), utc("2026-11-22T20:00")) == utc("2026-11-22T20:00")


@pytest.mark.parametrize(
    "cron",
    ["", "nonsense", "0 25 * * *", "0 1 * *", "0 0 1 * * *", "@daily", "0 1 30 2 *", "0 1 * * FOO", "*/0 * * * *"],
)
def test_what_is_no_cron_expression_is_named(cron: str) -> None:
    """Also one that never comes, and one with seconds."""
    with pytest.raises(UsageError, match="--cron"):
        Timetable(cron=cron)


@pytest.mark.parametrize("zone", ["Berlin", "", "Europe", "../etc/passwd", "/etc/localtime", "CET-1CEST"])
def test_what_is_no_time_zone_is_named(zone: str) -> None:
    """Names only, no paths."""
    with pytest.raises(UsageError, match="--timezone"):
        Timetable(cron="0 1 * * *", timezone=zone)


@pytest.mark.parametrize("window", ["", "19-7", "19:00", "24:00-07:00", "19:00-19:00", "19:00-07:60", "1900-0700"])
def test_what_is_no_window_is_named(window: str) -> None:
    """Two times of day that differ."""
    with pytest.raises(UsageError, match="--window"):
        Timetable(cron="0 1 * * *", window=window)


@pytest.mark.parametrize(
    ("planned", "end"),
    [
        ("2026-11-23T00:00", "2026-11-23T06:00"),
        ("2026-11-23T06:00", "2026-11-24T06:00"),
        ("2026-11-23T12:00", "2026-11-24T06:00"),
        ("2026-10-24T20:00", "2026-10-25T06:00"),
    ],
)
def test_the_end_of_the_window_that_a_planned_time_is_done_in(planned: str, end: str) -> None:
    """19:00-07:00 in Berlin: of the night that it lies in, or else of the next; without a window there is none."""
    table = Timetable(cron="0 1 * * *", timezone=BERLIN, window="19:00-07:00")
    assert table.window_end(utc(planned)) == utc(end)
    assert Timetable(cron="0 1 * * *").window_end(utc(planned)) is None
