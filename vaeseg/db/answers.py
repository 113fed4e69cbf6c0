"""A question in SQL, its answer, and what no answer may hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PRIVATE_TABLES = frozenset({"instances"})
"""Paths and file names, in every row."""

PRIVATE_COLUMNS = frozenset(
    {("archives", "root"), ("archives", "label_root"), ("runs", "config"), ("schedules", "options")}
)
"""Paths that an operator typed."""

READER_ROLE = "vaeseg_reader"
"""Of PostgreSQL, made by `migrations/roles.sql`: it sees the views and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, and how much it may take."""

    statement: str
    limit: int
    """Rows that are wanted at most."""
    timeout_seconds: float

    @property
    def too_long(self) -> str:
        """What to say when time is up."""
        return f"no answer within {self.timeout_seconds:g} s: ask for less, or for longer with --timeout"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Rows, as the database gives their values."""

    columns: tuple[str, ...]
    """Unique: of columns with one name, the second has ``_2`` behind it."""
    rows: tuple[tuple[Any, ...], ...]
    is_cut: bool
    """Whether there were more rows than were wanted."""


def answer_of(question: Question, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Answer:
    """An answer out of the rows that were fetched, one more than are wanted where there are more."""
    is_cut = len(rows) > question.limit
    return Answer(columns=_unique(names), rows=tuple(rows[: question.limit]), is_cut=is_cut)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    taken: list[str] = []
    for name in names:
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}_{number}"
        taken.append(free)
    return tuple(taken)
