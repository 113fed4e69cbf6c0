"""What a rules file may say, and the one line for what it may not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from vaeseg.canonical import digest
from vaeseg.rules.parsing import parse_rules
from vaeseg.rules.series_rules import Bounds, Condition, SeriesRules

EVERYTHING: dict[str, Any] = {
    "min_slices": 40,
    "slice_spacing_mm": {"min": 0.5, "max": 3},
    "prefer": ["thinnest", "kernel"],
    "kernels": ["LUNG"],
    "require": [{"keyword": "KVP", "range": {"min": 80}}, {"keyword": "Modality", "equals": "CT", "rule": "ct"}],
    "leave_out": [{"keyword": "SeriesDescription", "regex": ".*MIP.*"}],
}


def test_every_rule_there_is() -> None:
    """Conditions in their order, those that leave out last; an unnamed one bears its keyword."""
    assert parse_rules(EVERYTHING) == SeriesRules(
        min_slices=40,
        slice_spacing_mm=Bounds(low=0.5, high=3.0),
        conditions=(
            Condition(rule="KVP", keyword="KVP", bounds=Bounds(low=80.0)),
            Condition(rule="ct", keyword="Modality", one_of=("CT",)),
            Condition(rule="SeriesDescription", keyword="SeriesDescription", regex=".*MIP.*", leaves_out=True),
        ),
        prefer=("thinnest", "kernel"),
        kernels=("LUNG",),
    )


def test_the_digest_is_that_of_the_meaning() -> None:
    """The order of keys and the way a number is written change nothing; the order of what is preferred does."""
    turned = dict(reversed(json.loads(json.dumps(EVERYTHING)).items())) | {"slice_spacing_mm": {"max": 3.0, "min": 0.5}}
    assert digest(parse_rules(turned)) == digest(parse_rules(EVERYTHING))
    other = EVERYTHING | {"prefer": ["kernel", "thinnest"]}
    assert digest(parse_rules(other)) != digest(parse_rules(EVERYTHING))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "there is no rule in it"),
        ({"min_slice": 3}, "unknown key 'min_slice'; there are min_slices"),
        ({"min_slices": 0}, "min_slices: 0 is no whole number from 1"),
        ({"min_slices": True}, "min_slices: True"),
        ({"slice_spacing_mm": 3}, "slice_spacing_mm: expected min, max or both"),
        ({"slice_spacing_mm": {}}, "slice_spacing_mm: a range needs min, max or both"),
        ({"slice_spacing_mm": {"min": 3, "max": 1}}, "the range is empty: min 3 is above max 1"),
        ({"slice_spacing_mm": {"min": float("nan")}}, "nan is no number"),
        ({"slice_spacing_mm": {"max": 10**400}}, "is no number"),
        ({"slice_spacing_mm": {"above": 1}}, "unknown key 'above'"),
        ({"prefer": ["newest"]}, "prefer: expected some of kernel, thinnest, most_slices"),
        ({"prefer": ["thinnest", "thinnest"]}, "each once"),
        ({"prefer": "thinnest"}, "prefer: expected a list"),
        ({"prefer": ["kernel"]}, "belong together"),
        ({"kernels": ["LUNG"]}, "belong together"),
        ({"require": {"keyword": "KVP"}}, "require: expected a list"),
        ({"require": ["KVP"]}, "require 1: expected a table"),
        ({"require": [{"equals": "CT"}]}, "require 1: keyword is missing"),
        ({"require": [{"keyword": "KVP"}]}, "require 1: 0 tests, expected one of equals"),
        ({"leave_out": [{"keyword": "KVP", "equals": 1, "one_of": [1]}]}, "leave_out 1: 2 tests"),
        ({"require": [{"keyword": "KVP", "equals": []}]}, "equals: "),
        ({"require": [{"keyword": "KVP", "one_of": []}]}, "one_of: expected a list that is not empty"),
        ({"require": [{"keyword": "KVP", "equals": "a\0b"}]}, "printable"),
        ({"require": [{"keyword": "KVP", "regex": "("}]}, "regex: no regular expression in RE2 syntax: missing )"),
        ({"require": [{"keyword": "KVP", "regex": "a)|(b"}]}, "no regular expression"),
        ({"require": [{"keyword": "KVP", "regex": "(?=a)"}]}, "no regular expression in RE2 syntax"),
        ({"require": [{"keyword": "KVP", "equals": 1, "rule": "Doe, Jane"}]}, "is no name of a rule"),
        ({"require": [{"keyword": "KVP", "equals": 1, "rule": "prefer_x"}]}, "is no name of a rule"),
    ],
)
def test_what_is_no_rule_is_named(values: dict[str, Any], message: str) -> None:
    """With the key and what is expected there."""
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_rules(values)
