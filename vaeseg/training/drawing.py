"""Drawing with matplotlib: without a display, without its global state, and the same numbers give the same file.

matplotlib is imported where something is drawn, and nowhere else.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vaeseg.durable import write_file
from vaeseg.records import FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = npt.NDArray[np.uint8]
"""(height, width, 3), red green blue."""

DOTS_PER_INCH = 120
N_EXAMPLES = 6
"""Dev slices shown."""
MARKED_EPOCHS = 20
"""A curve of fewer epochs has a dot at each."""
STYLE = {"font.size": 8.0, "axes.titlesize": 9.0}
"""Changes to matplotlib's own style."""


def examples_of(slices: IntArray) -> IntArray:
    """`N_EXAMPLES` of some slices, or all if there are fewer, evenly from the first to the last."""
    return np.asarray(slices[np.unique(np.linspace(0, len(slices) - 1, N_EXAMPLES).round().astype(int))])


@contextmanager
def canvas(width_inches: float, height_inches: float) -> Iterator[Figure]:
    """An empty figure in our style, whatever the user's own is."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        figure = Figure((width_inches, height_inches), DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


@contextmanager
def panels(n_panels: int, columns: int, size_inches: tuple[float, float]) -> Iterator[tuple[Figure, Iterator[Axes]]]:
    """A figure and its panels of (width, height), row by row; what is left of the last row is blank."""
    columns = min(columns, n_panels)
    rows = -(-n_panels // columns)
    with canvas(columns * size_inches[0], rows * size_inches[1]) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for unused in axes[n_panels:]:
            unused.set_axis_off()
        yield figure, iter(axes)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; the directory is made.

    Raises:
        StoreError: it cannot be written.
    """
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    write_file(path, png.getvalue(), f"the figure {path.name}")


def draw_line(
    axes: Axes, epochs: Sequence[int], values: Sequence[float | None], colour: str, label: str, style: str = "-"
) -> None:
    """A value an epoch; undefined ones leave a gap."""
    from matplotlib.ticker import MaxNLocator

    heights = [np.nan if value is None else value for value in values]
    marker = "o" if len(epochs) < MARKED_EPOCHS else ""
    axes.plot(epochs, heights, style, color=colour, label=label, marker=marker, markersize=3, linewidth=1.4)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def show(axes: Axes, picture: Picture, title: str = "", name: str = "") -> None:
    """A picture without axes, with a title above and a name on its left."""
    axes.imshow(picture, interpolation="nearest")
    axes.set(xticks=[], yticks=[], frame_on=False, title=title, ylabel=name)


def grey(images: FloatArray) -> npt.NDArray[np.uint8]:
    """(N, S, S) intensity in [0, 1] to pictures (N, S, S, 3)."""
    levels = (np.clip(images, 0, 1) * 255).round().astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=-1)
