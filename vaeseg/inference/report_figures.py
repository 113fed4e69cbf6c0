"""The drawings of an evaluation report, as images that a page can hold; matplotlib is imported only to draw.

Colours are those of the paper's figures: ground truth green, prediction red, yellow where they agree.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vaeseg.evaluation.agreement import Agreement
from vaeseg.evaluation.calibration import CalibrationHistogram
from vaeseg.evaluation.cases import CASES_EACH, CaseKind
from vaeseg.evaluation.sizes import SIZES_MM, SizeRow
from vaeseg.evaluation.slices import equivalent_diameters_mm
from vaeseg.evaluation.subjects import EvaluationTable
from vaeseg.inference.case_pictures import CasePicture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREEN, RED, YELLOW, GREY = "#2166ac", "#1a9641", "#d7191c", "#ffd92f", "#666666"
STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "vaeseg",
}
HALF_PAGE = (5.4, 3.7)
"""Inches; two stand side by side."""
OVERLAY_ALPHA = 0.3
AGREEMENT_ALPHA = 0.15
"""Fainter: what lies below a good outline is worth seeing."""
KIND_TITLES: dict[CaseKind, str] = {
    "best": "best",
    "median": "median",
    "worst": "worst",
    "false_alarm": "false alarms",
}


def draw_iou_distribution(table: EvaluationTable) -> str:
    """Histogram of the IoU of slices with a label; those of which nothing was found stand out."""
    counts = table.counts
    ious, missed = counts.ious[counts.has_label], (counts.shared == 0)[counts.has_label]
    with _figure() as figure:
        axes = figure.subplots()
        axes.hist(
            [ious[missed], ious[~missed]],
            bins=20,
            range=(0, 1),
            stacked=True,
            color=[RED, BLUE],
            label=["nothing found", "something found"],
            edgecolor="white",
            linewidth=0.5,
        )
        for value, style, name in ((np.mean(ious), "-", "mean"), (np.median(ious), "--", "median")):
            axes.axvline(float(value), color="black", linestyle=style, linewidth=1, label=f"{name} {value:.3f}")
        axes.set(xlabel="IoU of a slice with a label", ylabel="slices", xlim=(0, 1))
        axes.legend(frameon=False)
        return _as_svg(figure)


def draw_iou_by_size(table: EvaluationTable, rows: Sequence[SizeRow]) -> str:
    """IoU of each slice with a label over the size of the label, and the mean of each class."""
    labelled = table.counts.has_label
    diameters = equivalent_diameters_mm(table.label_areas_mm2[labelled])
    with _figure() as figure:
        axes = figure.subplots()
        ious = table.counts.ious[labelled]
        axes.scatter(
            diameters, ious, s=_dot_size(len(ious)), color=BLUE, alpha=0.4, linewidths=0, rasterized=True, clip_on=False
        )
        longest = float(diameters.max())
        for row in rows:
            if row.iou is not None:
                right = min(row.high_mm, max(longest, row.low_mm * 1.2))
                axes.hlines(row.iou, max(row.low_mm, float(diameters.min())), right, color=RED, linewidth=2)
        axes.plot([], [], color=RED, linewidth=2, label="mean of the class")
        for bound in SIZES_MM[1:-1]:
            axes.axvline(bound, color=GREY, linewidth=0.5, linestyle=":")
        axes.set(
            xscale="log", xlabel="equivalent diameter of the label in the slice, mm", ylabel="IoU", ylim=(-0.02, 1)
        )
        ticks = [
            tick for tick in (1, 2, 3, 6, 10, 20, 30, 60, 100, 200) if diameters.min() * 0.9 <= tick <= longest * 1.1
        ]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False, loc="lower right")
        return _as_svg(figure)


def draw_calibration(calibration: CalibrationHistogram) -> str:
    """Share of tumour over predicted probability, and how many pixels have which probability."""
    filled = calibration.n_pixels > 0
    edges = np.linspace(0, 1, len(filled) + 1)
    with _figure() as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
        above.plot(
            calibration.mean_probability[filled],
            calibration.tumour_share[filled],
            color=BLUE,
            marker="o",
            markersize=4,
            label="this model",
        )
        above.set(ylabel="share labelled", xlim=(0, 1), ylim=(0, 1))
        above.legend(frameon=False)
        below.stairs(calibration.n_pixels, edges, fill=True, color=BLUE, alpha=0.6)
        below.set(xlabel="predicted probability", ylabel="pixels", yscale="log")
        return _as_svg(figure)


def draw_agreement(table: EvaluationTable, agreement: Agreement) -> str:
    """Bland-Altman: difference of predicted and labelled volume over their mean, one dot a subject."""
    from matplotlib.ticker import MaxNLocator

    known = ~np.isnan(table.labelled_ml)
    predicted, labelled = table.predicted_ml[known], table.labelled_ml[known]
    differences, means = predicted - labelled, (predicted + labelled) / 2
    with _figure() as figure:
        axes = figure.subplots()
        axes.axhline(0, color=GREY, linewidth=0.5)
        axes.scatter(means, differences, s=_dot_size(len(means)), color=BLUE, alpha=0.5, linewidths=0, rasterized=True)
        lines = (
            (agreement.mean_difference_ml, "-", "mean"),
            (agreement.low_ml, "--", "95 % limit"),
            (agreement.high_ml, "--", "95 % limit"),
        )
        for value, style, name in lines:
            axes.axhline(value, color=RED, linestyle=style, linewidth=1)
            axes.annotate(
                f"{name} {value:+.3g}",
                (1, value),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 2),
                textcoords="offset points",
                ha="right",
                va="bottom",
                color=RED,
                fontsize=8,
            )
        # volumes range over decades and may be 0, which a root shows and a logarithm does not
        axes.set_xscale("function", functions=(_root, np.square))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set(xlabel="mean of predicted and labelled volume, ml", ylabel="predicted - labelled, ml")
        axes.set_xlim(0, max(float(means.max()), 1e-3) * 1.1)
        return _as_svg(figure)


def draw_cases(pictures: Sequence[CasePicture]) -> str:
    """Overlays, a row for each kind of case."""
    kinds = [kind for kind in KIND_TITLES if any(picture.kind == kind for picture in pictures)]
    with _figure((2.6 * CASES_EACH, 2.85 * len(kinds))) as figure:
        grid = figure.subplots(len(kinds), CASES_EACH, squeeze=False)
        for axes in grid.ravel():
            axes.set_axis_off()
        for kind, row in zip(kinds, grid, strict=True):
            shown = [picture for picture in pictures if picture.kind == kind]
            for axes, picture in zip(row, shown, strict=False):
                _draw_case(axes, picture)
            row[0].text(
                -0.04,
                0.5,
                KIND_TITLES[kind],
                transform=row[0].transAxes,
                rotation=90,
                ha="right",
                va="center",
                fontsize=11,
                fontweight="bold",
            )
        return _as_png(figure)


def _dot_size(n_dots: int) -> float:
    """Square points: few dots must be seen, many must not run together."""
    return float(np.clip(2000 / max(n_dots, 1), 6, 30))


def _root(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Square root that mirrors below 0, where an axis may reach."""
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values)))


def _draw_case(axes: Axes, picture: CasePicture) -> None:
    axes.imshow(picture.image, cmap="gray", vmin=0, vmax=1, aspect=picture.pixel_aspect, interpolation="nearest")
    axes.imshow(_overlay(picture), aspect=picture.pixel_aspect, interpolation="nearest")
    for shown, colour in ((picture.label, GREEN), (picture.mask, RED)):
        if shown.any() and not shown.all() and min(shown.shape) > 1:  # a line of pixels has no contour
            axes.contour(shown.astype(np.float32), levels=[0.5], colors=[colour], linewidths=1.2)
    figure = "no label" if picture.kind == "false_alarm" else f"IoU {picture.iou:.2f}"
    title = f"{_shortened(picture.subject)}, slice {picture.slice_index}: {figure}"
    axes.set_title(title, fontsize=8, parse_math=False)  # a file name may hold dollars


def _overlay(picture: CasePicture) -> npt.NDArray[np.float64]:
    """(H, W, 4): green where only labelled, red where only predicted, yellow where both."""
    from matplotlib.colors import to_rgba

    colours = np.zeros((*picture.label.shape, 4))
    colours[picture.label & ~picture.mask] = to_rgba(GREEN, OVERLAY_ALPHA)
    colours[picture.mask & ~picture.label] = to_rgba(RED, OVERLAY_ALPHA)
    colours[picture.mask & picture.label] = to_rgba(YELLOW, AGREEMENT_ALPHA)
    return colours


def _shortened(name: str, length: int = 22) -> str:
    return name if len(name) <= length else f"{name[: length - 3]}..."


@contextmanager
def _figure(size_inches: tuple[float, float] = HALF_PAGE) -> Iterator[Figure]:
    """An empty figure in our style, whatever the user's own is; no display is needed."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        figure = Figure(size_inches, dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def _as_svg(figure: Figure) -> str:
    return _data_uri(figure, "svg", "image/svg+xml", {"Date": None, "Creator": None})


def _as_png(figure: Figure) -> str:
    return _data_uri(figure, "png", "image/png", {"Software": None})


def _data_uri(figure: Figure, kind: str, mime_type: str, metadata: dict[str, str | None]) -> str:
    """The figure as the `src` of an image; the same bytes for the same figure."""
    written = io.BytesIO()
    figure.savefig(written, format=kind, metadata=metadata)
    return f"data:{mime_type};base64,{base64.b64encode(written.getvalue()).decode()}"
