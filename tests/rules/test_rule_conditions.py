"""Conditions on header values: what meets them, and what the sentence about it says and does not say."""

from __future__ import annotations

import time
from typing import Any

import pytest

from vaeseg.rules.header import first_broken
from vaeseg.rules.parsing import parse_rules
from vaeseg.rules.series_rules import Condition, Exclusion


def condition(kind: str = "require", **values: Any) -> Condition:
    return parse_rules({kind: [{"keyword": "ConvolutionKernel", **values}]}).conditions[0]


def detail(asked: Condition, *found: str) -> str | None:
    """Of the sentence by which a series with these values is left out; None where it is not."""
    broken = first_broken([asked], {asked.keyword: found})
    return broken and broken.detail


@pytest.mark.parametrize(
    ("test", "met", "not_met"),
    [
        ({"equals": "b30f"}, "B30f ", "B30"),
        ({"one_of": ["B30f", "LUNG"]}, "lung", "B31f"),
        ({"equals": 1.25}, "1.250", "1.2500001"),
        ({"equals": 1.25}, "1.25", "thin"),
        ({"regex": "B[3-5]0f?"}, "B40", "xB40"),
        ({"regex": "(?i)lung|bone"}, "BONE", "BONEPLUS"),
        ({"range": {"min": 80, "max": 140}}, "80", "79.9"),
        ({"range": {"min": 80, "max": 140}}, "140", "140.1"),
        ({"range": {"max": 3}}, "-1", "4"),
        ({"range": {"min": 3}}, "3", "nan"),
        ({"range": {"min": 3}}, "1e300", "inf"),
    ],
)
def test_a_test_on_either_side(test: dict[str, Any], met: str, not_met: str) -> None:
    """Text without regard to case, numbers as numbers, a regular expression on the whole value, ends included."""
    assert detail(condition(**test), met) is None
    assert detail(condition(**test), not_met) is not None
    assert detail(condition("leave_out", **test), met) is not None
    assert detail(condition("leave_out", **test), not_met) is None


def test_any_value_of_an_element_counts() -> None:
    """ImageType has several; for leave_out too."""
    original = Condition(rule="r", keyword="ImageType", one_of=("ORIGINAL",))
    assert detail(original, "ORIGINAL", "PRIMARY") is None
    assert detail(original, "DERIVED", "PRIMARY") == "ImageType is DERIVED\\PRIMARY, expected ORIGINAL"
    derived = Condition(rule="r", keyword="ImageType", one_of=("DERIVED",), leaves_out=True)
    assert detail(derived, "PRIMARY", "DERIVED") == "ImageType is PRIMARY\\DERIVED, left out is DERIVED"


def test_an_element_without_a_value_meets_nothing() -> None:
    """So that what has to be there leaves the series out, and what must not be there does not."""
    assert detail(condition(equals="B30f")) == "ConvolutionKernel has no value in the header"
    assert detail(condition("leave_out", regex=".*")) is None
    assert first_broken([condition(equals="B30f")], {}) is not None


def test_the_first_broken_condition_names_the_rule() -> None:
    """By the name that it was given, else by its keyword."""
    rules = parse_rules(
        {"require": [{"keyword": "KVP", "range": {"min": 80}}, {"keyword": "Modality", "equals": "CT", "rule": "ct"}]}
    )
    assert first_broken(rules.conditions, {"KVP": ["70"], "Modality": ["PT"]}) == Exclusion(
        rule="KVP", detail="KVP is 70, expected at least 80"
    )
    assert first_broken(rules.conditions, {"KVP": ["80"], "Modality": ["PT"]}) == Exclusion(
        rule="ct", detail="Modality is PT, expected CT"
    )


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "4711"),
        ("SeriesDescription", "Doe"),
        ("PatientWeight", "70"),
        ("ConvolutionKernel", "DOE^JANE"),
        ("Manufacturer", "Jané"),
        ("BodyPartExamined", "CHEST\nDOE"),
        ("Modality", "X" * 65),
    ],
)
def test_what_may_name_a_patient_is_not_shown(keyword: str, value: str) -> None:
    """Neither the value nor, for elements that are about a patient, what was expected."""
    asked = Condition(rule="r", keyword=keyword, one_of=("expected",))
    assert detail(asked, value) == f"the value of {keyword} does not match"
    left_out = Condition(rule="r", keyword=keyword, regex="(?s).*", leaves_out=True)
    assert detail(left_out, value) == f"the value of {keyword} is left out"


def test_long_lists_are_cut_in_sentences() -> None:
    """Eight are named."""
    asked = Condition(rule="r", keyword="Modality", one_of=tuple(f"M{n}" for n in range(20)))
    assert detail(asked, "CT") == "Modality is CT, expected one of M0, M1, M2, M3, M4, M5, M6, M7 or 12 others"


def test_no_pattern_takes_for_ever() -> None:
    """One that would keep a backtracking engine busy for years."""
    started = time.monotonic()
    assert detail(condition(regex=r"(\w+\s?)*"), "a" * 255 + "!") is not None
    assert time.monotonic() - started < 1
