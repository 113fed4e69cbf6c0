"""Config dataclasses as text: the canonical form that the ledger compares, and settings as a command line has them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Config = TypeVar("Config")
ADDED_LATER = {"was_added_later": True}
"""Metadata of a field that came when digests were kept already: while it is None, they stay what they were."""


def as_json(config: Any) -> str:
    """Canonical JSON of a config dataclass: keys sorted, no spaces."""
    return _canonical(asdict(config))


def digest(config: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON, without its own fields `ADDED_LATER` that are None."""
    later = {field.name for field in fields(config) if field.metadata == ADDED_LATER}
    values = {name: value for name, value in asdict(config).items() if value is not None or name not in later}
    return hashlib.sha256(_canonical(values).encode()).hexdigest()


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def from_json(kind: type[Config], text: str) -> Config:
    """A flat config dataclass from its JSON; a field left out keeps its default.

    Raises:
        ValueError: not JSON, not an object, a field that does not exist, or a value of the wrong type or range.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"{type(values).__name__} found, expected a JSON object")
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints or not _fits(value, hints[name]):
            raise ValueError(f"{name} cannot be {value!r} in a {kind.__name__}")
    return kind(**values)


def with_settings(config: Config, settings: Mapping[str, str]) -> Config:
    """A copy of a flat config with fields set from text, as `--set key=value` gives them.

    Raises:
        ValueError: a field that does not exist, or text that is no value of its type or range.
    """
    hints = get_type_hints(type(config))
    values: dict[str, Any] = {}
    for name, text in settings.items():
        if name not in hints:
            raise ValueError(f"there is no setting {name}")
        values[name] = _parsed(name, text, hints[name])
    return replace(config, **values)  # type: ignore[type-var]  # any config dataclass


def _parsed(name: str, text: str, hint: Any) -> Any:
    if hint is bool and text in ("true", "false"):
        return text == "true"
    value: Any = text
    if hint in (int, float):
        value = hint(text)
    if not _fits(value, hint):
        raise ValueError(f"{name} cannot be {text!r}")
    return value


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if hint is float:
        return is_finite_number(value)
    return type(value) is hint


def is_finite_number(value: object) -> bool:
    """Whether it is a number that a float can hold; JSON's whole numbers may be larger."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
