"""A training in pictures, as the paper's figures 4 to 6: curves, reconstructions, predictions over ground truth.

Colours of an overlay are the paper's: ground truth green, prediction red, and yellow where they agree.

N slices, S side of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vaeseg.evaluation.protocol import slice_ious
from vaeseg.records import BoolArray, FloatArray
from vaeseg.training.drawing import Picture, draw_line, grey, panels, save_figure, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vaeseg.training.history import EpochRecord

MAX_COLUMNS = 8
"""Most slices side by side; more would be too small to see."""
TRAIN_COLOUR, DEV_COLOUR = "#1f5fa8", "#d9730d"
GROUND_TRUTH, PREDICTION, AGREEMENT = (0, 200, 0), (230, 0, 0), (255, 220, 0)
OVERLAY_WEIGHT = 0.55
"""Of the colour over the image, so that the tissue below stays visible."""
CLOSE_UP_MARGIN = 8
"""Pixels shown around a label, at least."""
CLOSE_UP_SIDE = 32
"""Smallest side of a close-up, pixels."""

LOSS_TITLES = {
    "loss": "loss that is minimised",
    "reconstruction": "reconstruction, nats a pixel",
    "bce": "cross-entropy, nats a pixel",
    "kl": "KL divergence, nats a pixel",
    "total": "reconstruction + KL, nats a pixel",
    "mse": "squared error",
    "dice": "soft Dice loss",
}
IOU_TITLES = {
    "iou_label_or_prediction": "slices with label or prediction (the paper's)",
    "iou_label": "slices with a label",
    "iou_subject": "mean of subjects",
}


def draw_curves(records: Sequence[EpochRecord], path: Path) -> None:
    """Losses on train and dev, IoU on dev, learning rate, by epoch (the paper's figure 4).

    Args:
        records: at least one.
        path: PNG file; its directory is made.

    Raises:
        ValueError: no records.
        StoreError: it cannot be written.
    """
    if not records:
        raise ValueError("there is no epoch to draw")
    losses = list(records[-1].losses)
    ious = [name for name in records[-1].dev if name in IOU_TITLES]
    n_panels = len(losses) + bool(ious) + 1
    with panels(n_panels, columns=3, size_inches=(4.0, 2.9)) as (figure, axes):
        for name in losses:
            _draw_loss(next(axes), records, name)
        if ious:
            _draw_ious(next(axes), records, ious)
        _draw_learning_rate(next(axes), records)
        save_figure(figure, path)


def draw_reconstructions(images: FloatArray, reconstructions: FloatArray, path: Path) -> None:
    """Slices above, what the autoencoder makes of them below (the paper's figure 5).

    Args:
        images: (N, S, S) intensity in [0, 1]; the first `MAX_COLUMNS` are drawn.
        reconstructions: (N, S, S), in the same order.
        path: PNG file; its directory is made.

    Raises:
        ValueError: the shapes differ, or there is no slice.
        StoreError: it cannot be written.
    """
    _check_slices(images, reconstructions)
    rows = [("original", grey(images)), ("reconstruction", grey(reconstructions))]
    errors = np.square(images - reconstructions).mean((1, 2))
    _draw_rows(rows, [f"MSE {error:.4f}" for error in errors], path)


def draw_predictions(images: FloatArray, labels: BoolArray, masks: BoolArray, path: Path) -> None:
    """Slices, predictions over ground truth, and the same from close up (the paper's figure 6).

    Args:
        images: (N, S, S) intensity in [0, 1]; the first `MAX_COLUMNS` are drawn.
        labels: (N, S, S) bool.
        masks: (N, S, S) bool, predicted.
        path: PNG file; its directory is made.

    Raises:
        ValueError: the shapes differ, or there is no slice.
        StoreError: it cannot be written.
    """
    _check_slices(images, labels, masks)
    over = overlay(images, labels, masks)
    rows = [("image", grey(images)), ("prediction", over), ("close-up", _close_ups(over, labels, masks))]
    titles = ["nothing there" if np.isnan(iou) else f"IoU {iou:.2f}" for iou in slice_ious(masks, labels)]
    legend = {"ground truth": GROUND_TRUTH, "prediction": PREDICTION, "both": AGREEMENT}
    _draw_rows(rows, titles, path, legend)


def overlay(images: FloatArray, labels: BoolArray, masks: BoolArray) -> npt.NDArray[np.uint8]:
    """Prediction over ground truth on each slice.

    Args:
        images: (N, S, S) intensity in [0, 1].
        labels: (N, S, S) bool, green.
        masks: (N, S, S) bool, red; yellow where a label is too.

    Returns:
        (N, S, S, 3) uint8.

    Raises:
        ValueError: the shapes differ, or there is no slice.
    """
    _check_slices(images, labels, masks)
    coloured = grey(images).astype(np.float32)
    kinds = ((labels & ~masks, GROUND_TRUTH), (masks & ~labels, PREDICTION), (labels & masks, AGREEMENT))
    for where, colour in kinds:
        coloured[where] += OVERLAY_WEIGHT * (np.array(colour) - coloured[where])
    return np.asarray(coloured.round().astype(np.uint8))


def reconstruction_picture(images: FloatArray, reconstructions: FloatArray) -> Picture:
    """Slices above and reconstructions below, without frames, as TensorBoard shows them; (N, S, S) each."""
    _check_slices(images, reconstructions)
    return np.concatenate([_side_by_side(grey(part)) for part in (images, reconstructions)])


def prediction_picture(images: FloatArray, labels: BoolArray, masks: BoolArray) -> Picture:
    """Slices above and predictions over ground truth below, without frames; (N, S, S) each."""
    return np.concatenate([_side_by_side(part) for part in (grey(images), overlay(images, labels, masks))])


def _draw_loss(axes: Axes, records: Sequence[EpochRecord], name: str) -> None:
    draw_line(axes, _epochs(records), [record.losses.get(name) for record in records], TRAIN_COLOUR, "train")
    if any(name in record.dev for record in records):
        draw_line(axes, _epochs(records), [record.dev.get(name) for record in records], DEV_COLOUR, "dev")
        axes.legend(frameon=False)
    axes.set_title(LOSS_TITLES.get(name, name))


def _draw_ious(axes: Axes, records: Sequence[EpochRecord], names: Sequence[str]) -> None:
    for name, style in zip(names, ("-", "--", ":"), strict=False):
        line = [record.dev.get(name) for record in records]
        draw_line(axes, _epochs(records), line, DEV_COLOUR, IOU_TITLES[name], style)
    axes.set(title="IoU on dev, mean", ylim=(0, 1))
    axes.legend(frameon=False)


def _draw_learning_rate(axes: Axes, records: Sequence[EpochRecord]) -> None:
    draw_line(axes, _epochs(records), [record.learning_rate for record in records], "#444444", "")
    axes.set_title("learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-2, 3))


def _epochs(records: Sequence[EpochRecord]) -> list[int]:
    return [record.epoch for record in records]


def _draw_rows(
    rows: Sequence[tuple[str, npt.NDArray[np.uint8]]],
    titles: Sequence[str],
    path: Path,
    legend: dict[str, tuple[int, int, int]] | None = None,
) -> None:
    """Rows of pictures (N, S, S, 3) with their names on the left and a title over each column."""
    columns = min(len(titles), MAX_COLUMNS)
    with panels(len(rows) * columns, columns, size_inches=(1.7, 1.8)) as (figure, axes):
        for row, (name, pictures) in enumerate(rows):
            for column, picture in enumerate(pictures[:columns]):
                show(next(axes), picture, "" if row else titles[column], "" if column else name)
        if legend:
            _add_legend(figure, legend)
        save_figure(figure, path)


def _add_legend(figure: Figure, colours: dict[str, tuple[int, int, int]]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=f"#{bytes(colour).hex()}", label=name) for name, colour in colours.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)


def _close_ups(pictures: npt.NDArray[np.uint8], labels: BoolArray, masks: BoolArray) -> npt.NDArray[np.uint8]:
    """A square around the label of each slice, or the prediction where there is no label, enlarged to the slice's side.

    (N, S, S, 3); a slice with neither is shown whole.
    """
    marks = [label if label.any() else mask for label, mask in zip(labels, masks, strict=True)]
    return np.stack([_close_up(picture, mark) for picture, mark in zip(pictures, marks, strict=True)])


def _close_up(picture: Picture, mark: BoolArray) -> Picture:
    size = len(picture)
    rows, columns = np.nonzero(mark)
    if not len(rows):
        return picture
    extent = max(np.ptp(rows), np.ptp(columns)) + 1 + 2 * CLOSE_UP_MARGIN
    side = min(size, max(int(extent), CLOSE_UP_SIDE))
    top, left = (int(np.clip((axis.min() + axis.max() + 1 - side) // 2, 0, size - side)) for axis in (rows, columns))
    nearest = np.arange(size) * side // size
    return np.asarray(picture[top + nearest][:, left + nearest])


def _side_by_side(pictures: npt.NDArray[np.uint8]) -> Picture:
    return np.concatenate(list(pictures[:MAX_COLUMNS]), axis=1)


def _check_slices(images: FloatArray, *others: FloatArray | BoolArray) -> None:
    if images.ndim != 3 or not len(images) or any(other.shape != images.shape for other in others):
        shapes = [array.shape for array in (images, *others)]
        raise ValueError(f"expected the same (N, S, S) of at least one slice, got {shapes}")
