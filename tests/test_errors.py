"""The tree of errors is the one that there is."""

from __future__ import annotations

import re
from pathlib import Path

from vaeseg import errors

ERROR = re.compile(r"^class ([A-Z]\w*Error)\((\w+Error)\):", re.MULTILINE)


def test_every_error_is_in_the_tree() -> None:
    """Below the one that it is a kind of, wherever it is defined."""
    parts = [line.partition("── ") for line in (errors.__doc__ or "").splitlines() if "── " in line]
    below, path = {}, ["VaesegError"]
    for branch, _, text in parts:
        depth = (len(branch) - 1) // 4
        path[depth:] = [text.split()[0]]
        below[path[-1]] = path[-2]
    sources = Path(errors.__file__).parent.rglob("*.py")
    defined = {name: base for source in sources for name, base in ERROR.findall(source.read_text(encoding="utf-8"))}
    ours = {name: base for name, base in defined.items() if base in {"VaesegError", *defined}}
    assert below == ours
