"""The day of a study, as its files say."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from factories import write_series
from reading import judge


def study_date(directory: Path) -> date | None:
    (judged,) = judge(directory)
    assert judged.volume is not None
    return judged.verdict.study_date


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("20240229", date(2024, 2, 29)),
        ("2024.02.29", date(2024, 2, 29)),
        ("20230229", None),
        ("00000000", None),
        ("00010101", None),
        ("19000101", None),
        ("19001231", None),
        ("19010101", date(1901, 1, 1)),
        ("22991231", date(2299, 12, 31)),
        ("23000101", None),
        ("99991231", None),
        ("21870304", date(2187, 3, 4)),
        ("2024-02-29", None),
        ("20240101-20240131", None),
        ("20240101\\20240102", None),
        ("Canary^Jane", None),
        ("", None),
        (None, None),
    ],
)
def test_a_date_is_one_of_the_calendar_or_none(tmp_path: Path, written: str | None, expected: date | None) -> None:
    """Also as files before DICOM 3 wrote it; a range, a name and the 29th of February 2023 are no dates."""
    write_series(tmp_path, StudyDate=written, AcquisitionDate=None, SeriesDate=None)
    assert study_date(tmp_path) == expected


@pytest.mark.parametrize(("study", "acquisition"), [("", "20240105"), ("not a date", "20240105"), (None, None)])
def test_other_dates_stand_in(tmp_path: Path, study: str | None, acquisition: str | None) -> None:
    """The day of the acquisition before the day on which the series was made."""
    write_series(tmp_path, StudyDate=study, AcquisitionDate=acquisition, SeriesDate="20240207")
    assert study_date(tmp_path) == (date(2024, 1, 5) if acquisition else date(2024, 2, 7))


def test_the_earliest_of_a_series_counts(tmp_path: Path) -> None:
    """A scan past midnight, with a slice that says nothing."""
    per_slice = {k: {"StudyDate": "20240106"} for k in range(6)} | {1: {"StudyDate": ""}, 4: {"StudyDate": "20240105"}}
    write_series(tmp_path, per_slice=per_slice)
    assert study_date(tmp_path) == date(2024, 1, 5)
