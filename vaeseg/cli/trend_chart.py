"""Tumour volume over time as a drawing: in letters for a terminal, and as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vaeseg.cli.options import NOTICE

if TYPE_CHECKING:
    from vaeseg.db.trends import TrendRow

WIDTH = 60
"""Letters from the first study to the last."""
HEIGHT = 8
"""Lines from 0 to the largest volume."""
SIZE_INCHES = (6.4, 3.6)


class Point(NamedTuple):
    """The study that stands for its day."""

    day: date
    volume_ml: float


def lines_of(rows: Sequence[TrendRow]) -> list[list[Point]]:
    """Points of a model's rows in order, in lines: volumes by two files of one name are not compared."""
    lines: list[list[Point]] = []
    for row in rows:
        if row.study_date is None or row.doubling_reason == "same_day":
            continue
        if not lines or row.doubling_reason == "other_model":
            lines.append([])
        lines[-1].append(Point(row.study_date, row.tumour_volume_ml))
    return lines


def text_chart(rows: Sequence[TrendRow]) -> list[str]:
    """Lines to print: volume upwards from 0, days to the right, both to scale; none for fewer than two days."""
    points = [point for line in lines_of(rows) for point in line]
    first, last = (points[0].day, points[-1].day) if points else (date.min, date.min)
    if first == last:
        return []
    largest = max(point.volume_ml for point in points) or 1.0
    lines = [[" "] * (WIDTH + 1) for _ in range(HEIGHT + 1)]
    for day, volume_ml in points:
        column = round(WIDTH * ((day - first).days / (last - first).days))
        lines[HEIGHT - round(HEIGHT * volume_ml / largest)][column] = "*"
    scale = {0: f"{largest:.2f} ml", HEIGHT: "0"}
    drawn = [f"{scale.get(number, ''):>12} |{''.join(line)}".rstrip() for number, line in enumerate(lines)]
    return [*drawn, f"{'':12} +{'-' * (WIDTH + 1)}", f"{'':12}  {first}{last!s:>{WIDTH + 1 - len(str(first))}}"]


def save_chart(path: Path, rows: Sequence[TrendRow]) -> None:
    """Write a PNG with a colour for each model, and a line for each of its files.

    Raises:
        StoreError: it cannot be written.
    """
    from vaeseg.training.drawing import canvas, save_figure

    with canvas(*SIZE_INCHES) as figure:
        axes = figure.subplots()
        for number, model in enumerate(dict.fromkeys(row.model for row in rows)):
            axes.plot([], [], f"C{number}-", marker="o", label=model.replace("$", r"\$"))  # no mathematics
            for points in lines_of([row for row in rows if row.model == model]):
                days = np.array([point.day for point in points], dtype="datetime64[D]")
                axes.plot(days, [point.volume_ml for point in points], f"C{number}-", marker="o")
        axes.set(ylabel="tumour volume, ml", title=NOTICE)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.tick_params(axis="x", rotation=30)
        if rows:
            axes.legend()
        save_figure(figure, path)
