"""Conditions on elements of a DICOM header.

What a header says is not trusted: regular expressions run in RE2, whose time grows only as values do, and only what
cannot name a patient is shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from vaeseg.rules.series_rules import Condition, Exclusion

HeaderValues = Mapping[str, Sequence[str]]
"""Keyword to the values of its element; an element that is missing or empty has none."""

SHOWN_KEYWORDS = frozenset(
    {
        "BodyPartExamined",
        "ConvolutionKernel",
        "Exposure",
        "ExposureTime",
        "FilterType",
        "GantryDetectorTilt",
        "ImageType",
        "KVP",
        "LossyImageCompression",
        "Manufacturer",
        "ManufacturerModelName",
        "Modality",
        "PatientPosition",
        "PhotometricInterpretation",
        "PixelSpacing",
        "ReconstructionDiameter",
        "Rows",
        "Columns",
        "ScanOptions",
        "SliceThickness",
        "SOPClassUID",
        "SpacingBetweenSlices",
        "SpiralPitchFactor",
        "TransferSyntaxUID",
        "XRayTubeCurrent",
    }
)
"""Elements that describe the acquisition, and whose values may be shown; of others only that they do not match."""
SHOWN_VALUE = re.compile(r"[A-Za-z0-9_ .:/+-]{1,64}")
"""No caret, comma or accent: somebody may have typed a name even here."""
SHOWN_VALUES = 8
"""Of an element or of a list of expected values."""


def check_regex(pattern: str) -> None:
    """Refuse what RE2 does not understand.

    Raises:
        ValueError: it is no regular expression, or one that RE2 has not (back references, look-ahead).
    """
    for text in (pattern, _whole(pattern)):  # the first, because "a)|(b" is none by itself
        try:
            pc.match_substring_regex(pa.scalar(""), pattern=text)
        except pa.ArrowInvalid as error:
            reason = str(error).removeprefix("Invalid regular expression: ").partition(":")[0]
            raise ValueError(f"no regular expression in RE2 syntax: {reason}") from error


def first_broken(conditions: Sequence[Condition], values: HeaderValues) -> Exclusion | None:
    """The first condition that leaves a series out, or None; one on an element without a value is not met."""
    for condition in conditions:
        found = values.get(condition.keyword, ())
        if any(_meets(condition, value) for value in found) == condition.leaves_out:
            return Exclusion(rule=condition.rule, detail=_sentence(condition, found))
    return None


def is_text(expected: str, value: str) -> bool:
    """Whether they are the same but for case and spaces around them."""
    return expected.strip().casefold() == value.strip().casefold()


def shown(keyword: str, values: Sequence[str]) -> str | None:
    """Values as a sentence may quote them; None where they may name a patient."""
    listed = list(values[:SHOWN_VALUES])
    if keyword not in SHOWN_KEYWORDS or not all(SHOWN_VALUE.fullmatch(value) for value in listed):
        return None
    return "\\".join(listed)


def _meets(condition: Condition, value: str) -> bool:
    if condition.regex is not None:
        return bool(pc.match_substring_regex(pa.scalar(value), pattern=_whole(condition.regex)).as_py())
    number = _number(value)
    if condition.bounds is not None:
        return condition.bounds.hold(number)
    return any(
        is_text(expected, value) if isinstance(expected, str) else expected == number for expected in condition.one_of
    )


def _whole(pattern: str) -> str:
    return rf"\A(?:{pattern})\z"


def _number(value: str) -> float:
    """NaN, which is in no range and equals nothing, where it is no number."""
    try:
        number = float(value)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _sentence(condition: Condition, found: Sequence[str]) -> str:
    if not found:
        return f"{condition.keyword} has no value in the header"
    quoted = shown(condition.keyword, found)
    if quoted is None:
        return f"the value of {condition.keyword} {'is left out' if condition.leaves_out else 'does not match'}"
    verb = "left out is" if condition.leaves_out else "expected"
    return f"{condition.keyword} is {quoted}, {verb} {_expected(condition)}"


def _expected(condition: Condition) -> str:
    if condition.regex is not None:
        return f"a match of {condition.regex}"
    if condition.bounds is not None:
        return str(condition.bounds)
    listed = [value if isinstance(value, str) else f"{value:g}" for value in condition.one_of]
    more = f" or {len(listed) - SHOWN_VALUES} others" * (len(listed) > SHOWN_VALUES)
    return f"{'one of ' * (len(listed) > 1)}{', '.join(listed[:SHOWN_VALUES])}{more}"
