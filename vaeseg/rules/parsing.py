"""From what a rules file says to rules, or to one line that says what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from vaeseg.rules.header import check_regex
from vaeseg.rules.series_rules import CRITERIA, Bounds, Condition, Criterion, SeriesRules

Value = TypeVar("Value")

RULE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
RESERVED = ("min_slices", "slice_spacing", "prefer")
"""Beginnings of the names of rules that are not conditions."""
RULES_KEYS = ("min_slices", "slice_spacing_mm", "require", "leave_out", "prefer", "kernels")
CONDITION_KEYS = ("rule", "keyword", "equals", "one_of", "regex", "range")
LARGEST = 1e12
"""So that a number stays what it is in JSON and in any database."""
TESTS = ("equals", "one_of", "regex", "range")


def parse_rules(values: Mapping[str, Any]) -> SeriesRules:
    """The rules that a TOML or JSON document holds.

    Args:
        values: the document.

    Raises:
        ValueError: a key or value that is none, a regular expression that is none, an empty range, no rule at all.
    """
    _check_keys(values, RULES_KEYS)
    rules = SeriesRules(
        min_slices=_given(values, "min_slices", _positive),
        slice_spacing_mm=_given(values, "slice_spacing_mm", _bounds),
        conditions=(*_conditions(values, "require"), *_conditions(values, "leave_out")),
        prefer=_given(values, "prefer", _criteria) or (),
        kernels=_given(values, "kernels", _texts) or (),
    )
    if rules == SeriesRules():
        raise ValueError(f"there is no rule in it; rules are {', '.join(RULES_KEYS)}")
    if ("kernel" in rules.prefer) != bool(rules.kernels):
        raise ValueError("prefer kernel and the list kernels belong together")
    return rules


def _conditions(values: Mapping[str, Any], kind: str) -> list[Condition]:
    found = _list(values.get(kind, []), kind)
    conditions = []
    for number, condition in enumerate(found, start=1):
        try:
            conditions.append(_condition(condition, leaves_out=kind == "leave_out"))
        except ValueError as error:
            raise ValueError(f"{kind} {number}: {error}") from error
    return conditions


def _condition(values: Any, leaves_out: bool) -> Condition:
    if not isinstance(values, Mapping):
        raise ValueError("expected a table with keyword and a test")
    _check_keys(values, CONDITION_KEYS)
    tests = [test for test in TESTS if test in values]
    if len(tests) != 1:
        raise ValueError(f"{len(tests)} tests, expected one of {', '.join(TESTS)}")
    keyword = _given(values, "keyword", _text)
    if keyword is None:
        raise ValueError("keyword is missing")
    equals = _given(values, "equals", _text_or_number)
    return Condition(
        rule=_given(values, "rule", _rule_name) or keyword,
        keyword=keyword,
        one_of=(_given(values, "one_of", _texts_or_numbers) or ()) if equals is None else (equals,),
        regex=_given(values, "regex", _regex),
        bounds=_given(values, "range", _bounds),
        leaves_out=leaves_out,
    )


def _check_keys(values: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in values:
        if key not in keys:
            raise ValueError(f"unknown key {key!r}; there are {', '.join(keys)}")


def _given(values: Mapping[str, Any], key: str, parse: Callable[[Any], Value]) -> Value | None:
    if key not in values:
        return None
    try:
        return parse(values[key])
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{key}: expected a list")
    return value


def _filled(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list that is not empty")
    return value


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is no whole number from 1")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < LARGEST:
        raise ValueError(f"{value!r} is no number below {LARGEST:g}")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"{value!r} is no text of printable characters")
    return value.strip()


def _text_or_number(value: Any) -> str | float:
    return _text(value) if isinstance(value, str) else _number(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(item) for item in _filled(value))


def _texts_or_numbers(value: Any) -> tuple[str | float, ...]:
    return tuple(_text_or_number(item) for item in _filled(value))


def _bounds(value: Any) -> Bounds:
    if not isinstance(value, Mapping):
        raise ValueError("expected min, max or both, such as { min = 0.5, max = 3 }")
    _check_keys(value, ("min", "max"))
    return Bounds(low=_given(value, "min", _number), high=_given(value, "max", _number))


def _regex(value: Any) -> str:
    check_regex(_text(value))
    return str(value)


def _rule_name(value: Any) -> str:
    if not RULE_NAME.fullmatch(_text(value)) or value.startswith(RESERVED):
        raise ValueError(f"{value!r} is no name of a rule: up to 40 letters, digits and _, none of the built-in ones")
    return str(value)


def _criteria(value: Any) -> tuple[Criterion, ...]:
    chosen = [criterion for item in _filled(value) for criterion in CRITERIA if criterion == item]
    if not len(value) == len(chosen) == len(set(chosen)):
        raise ValueError(f"expected some of {', '.join(CRITERIA)}, each once")
    return tuple(chosen)
