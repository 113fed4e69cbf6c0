"""docs/doctor.md lists the checks that the code makes."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_every_check_is_documented() -> None:
    """Exactly those whose names are in the code."""
    document = (PROJECT / "docs/doctor.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", document, re.MULTILINE))
    source = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "vaeseg").rglob("*.py"))
    made = set(re.findall(r"\b(?:passed|warned|failed|looked)\(\s*\"(\w+)\"", source))
    assert documented == made
    assert len(made) > 10
