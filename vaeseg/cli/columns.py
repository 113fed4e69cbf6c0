"""Tables for people: which columns tell the rows apart, and which of them a terminal has room for."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of text."""

    heading: str
    cells: Sequence[str]
    is_number: bool = False
    rank: int = 0
    """Of 0: shown whatever the width. Of the others, those of the highest rank give way first."""
    folds_to: int | None = None
    """Characters in which a longer cell is still readable over several lines; None where it should stay whole."""

    @property
    def width(self) -> int:
        """Characters that it needs."""
        longest = max(map(len, (self.heading, *self.cells)))
        return longest if self.folds_to is None else min(longest, max(self.folds_to, len(self.heading)))


def tells_apart(cells: Sequence[str]) -> bool:
    """Whether rows differ in this."""
    return len(set(cells)) > 1


def fitting(columns: Sequence[Column], width: int, gap: int) -> list[Column]:
    """Those that fit side by side, in the order given; of equal rank the last gives way first.

    Args:
        columns: in the order of the table.
        width: characters of the terminal.
        gap: characters between two columns.
    """
    kept = list(columns)
    while sum(column.width + gap for column in kept) - gap > width:
        least = max(reversed(kept), key=lambda column: column.rank)
        if least.rank == 0:
            break
        kept.remove(least)
    return kept


def print_columns(columns: Sequence[Column], gap: int = 2) -> None:
    """Print those that fit the terminal; what is still too long is folded."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = shutil.get_terminal_size().columns
    shown = fitting(columns, width, gap)
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for column in shown:
        table.add_column(column.heading, justify="right" if column.is_number else "left", overflow="fold")
    for row in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*map(Text, row))  # a name in brackets is no markup
    Console(width=width).print(table)
