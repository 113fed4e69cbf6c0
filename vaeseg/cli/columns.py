"""Tables for people: which columns tell the rows apart, and which of them a terminal has room for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

import click


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
        """Cells of a terminal that it needs."""
        if self.folds_to is None:
            return self.longest
        return min(self.longest, max(self.folds_to, len(self.heading)))

    @cached_property
    def longest(self) -> int:
        """Cells of a terminal that it takes where nothing is folded."""
        from rich.cells import cell_len

        return max(map(cell_len, (self.heading, *self.cells)))


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
    """Print those that fit the terminal, row by row; what is still too long is folded."""
    width = shutil.get_terminal_size().columns
    shown = fitting(columns, width, gap)
    widths = _widths(shown, width - gap * (len(shown) - 1))
    for line in _lines([column.heading for column in shown], shown, widths, gap):
        click.secho(line, bold=True)
    for row in zip(*(column.cells for column in shown), strict=True):
        for line in _lines(row, shown, widths, gap):
            click.echo(line)


def _widths(columns: Sequence[Column], room: int) -> list[int]:
    """What is left over goes to those that fold, the first before others; what is missing is taken off the widest."""
    widths = [column.width for column in columns]
    for place, column in enumerate(columns):
        widths[place] += max(0, min(column.longest - widths[place], room - sum(widths)))
    while sum(widths) > max(room, len(widths)):
        widths[widths.index(max(widths))] -= 1
    return widths


def _lines(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int], gap: int) -> Iterator[str]:
    """One line, or as many as its longest folded cell takes."""
    from rich.cells import chop_cells
    from rich.control import strip_control_codes

    folded = [chop_cells(strip_control_codes(cell), width) or [""] for cell, width in zip(row, widths, strict=True)]
    for parts in zip_longest(*folded, fillvalue=""):
        yield (" " * gap).join(map(_padded, parts, columns, widths)).rstrip()


def _padded(part: str, column: Column, width: int) -> str:
    from rich.cells import cell_len

    fill = " " * (width - cell_len(part))
    return fill + part if column.is_number else part + fill
