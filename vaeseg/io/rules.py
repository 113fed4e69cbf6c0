"""Files of rules, and what the rules say of a header: values of elements stay here, only the answer goes on."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from vaeseg.config import ReadingConfig
from vaeseg.errors import ReadingError, UsageError
from vaeseg.io.archive import check_regular
from vaeseg.io.dicom import read_values
from vaeseg.io.listing import found_file
from vaeseg.paths import AnyPath
from vaeseg.records import Reason
from vaeseg.rules.header import first_broken
from vaeseg.rules.parsing import parse_rules
from vaeseg.rules.series_rules import KERNEL_KEYWORD, Exclusion, SeriesRules

MAX_BYTES = 64 * 1024
"""Of a file of rules."""


@dataclass(frozen=True, kw_only=True)
class HeaderAnswer:
    """What rules need to know of a header, and nothing that names a patient."""

    broken: Exclusion | None
    """The condition that leaves the series out."""
    kernels: tuple[str, ...] = ()
    """Values of ConvolutionKernel, where one is preferred."""


def read_rules(path: Path) -> dict[str, Any]:
    """The document that a file of rules holds, checked: `parse_rules` understands it.

    Args:
        path: TOML, or JSON, which begins with a brace.

    Raises:
        UsageError: it cannot be read, or says something that is no rule.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the rules in {path}: {error.strerror}") from error
    try:
        values = _document(content)
        _check_keywords(parse_rules(values))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the rules in {path} cannot be followed: {error}") from error
    return values


def ask_header(root: AnyPath, path: str, rules: SeriesRules, config: ReadingConfig) -> HeaderAnswer:
    """What rules say of the header of one DICOM file; call it within `quiet_pydicom`.

    Args:
        root: of the archive.
        path: of the file, relative to it.
        rules: whose conditions count.
        config: bounds.

    Raises:
        ReadingError: the file cannot be read (any more).
    """
    try:
        found = list(found_file(root, root / path))
        if not found:
            raise ReadingError(Reason.CHANGED_WHILE_READING, "a file of it vanished since it was listed")
        check_regular(root / path, found[0])
        values = read_values(root, path, rules.keywords, config)
    except OSError as error:
        raise ReadingError(Reason.UNREADABLE_FILE, f"cannot be opened ({type(error).__name__})") from error
    kernels = values.get(KERNEL_KEYWORD, ()) if "kernel" in rules.prefer else ()
    return HeaderAnswer(broken=first_broken(rules.conditions, values), kernels=kernels)


def answer_without_header(rules: SeriesRules) -> HeaderAnswer:
    """What rules say of a NIfTI volume: it has none of the elements."""
    return HeaderAnswer(broken=first_broken(rules.conditions, {}))


def _document(content: bytes) -> dict[str, Any]:
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES} bytes")
    text = content.decode("utf-8-sig")
    if not text.lstrip().startswith("{"):
        return tomllib.loads(text)
    values = json.loads(text)
    assert isinstance(values, dict)  # it began with a brace
    return values


def _check_keywords(rules: SeriesRules) -> None:
    for condition in rules.conditions:
        tag = tag_for_keyword(condition.keyword)
        if tag is None:
            raise ValueError(f"{condition.keyword!r} is no DICOM keyword, such as BodyPartExamined")
        kind = dictionary_VR(tag)
        if kind in ("SQ", "UN", "NONE") or kind.startswith("O") or kind.endswith("OW"):
            raise ValueError(f"{condition.keyword} holds no plain values, and cannot be asked")
