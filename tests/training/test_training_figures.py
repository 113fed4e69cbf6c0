"""Pictures of a training, looked at pixel by pixel."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from vaeseg.errors import StoreError
from vaeseg.records import BoolArray, FloatArray
from vaeseg.training.figures import (
    _close_up,
    _close_ups,
    draw_curves,
    draw_predictions,
    draw_reconstructions,
    overlay,
    prediction_picture,
    reconstruction_picture,
)
from vaeseg.training.history import EpochRecord

SIZE = 64


def record(epoch: int, iou: float | None = 0.3) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        losses={"loss": 1 / epoch, "bce": 0.8 / epoch, "kl": 0.01},
        dev={"loss": 1.2 / epoch, "iou_label": iou, "iou_label_or_prediction": iou},
        learning_rate=1e-3 * 0.8**epoch,
        slices_per_second=50.0,
        seconds=1.0,
    )


def slices(n: int = 3) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Grey images; a square label; a prediction shifted by half of it, and nothing at all on the last slice."""
    images = np.full((n, SIZE, SIZE), 0.5)
    labels, masks = np.zeros((2, n, SIZE, SIZE), dtype=bool)
    labels[:-1, 20:30, 20:30] = True
    masks[:-1, 20:30, 25:35] = True
    return images, labels, masks


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_overlay_is_green_red_and_yellow() -> None:
    """Label alone is green, prediction alone red, both yellow, the rest the image itself."""
    picture = overlay(*slices()).astype(int)
    prediction, truth, both = (picture[0, 25, column] for column in (32, 22, 27))
    assert prediction[0] > 1.5 * prediction[1]
    assert truth[1] > 1.5 * truth[0]
    assert min(both[0], both[1]) > 1.5 * both[2]
    assert (picture[0, 0, 0] == 128).all()
    assert (picture[-1] == 128).all()


def test_predictions_show_all_three_colours(tmp_path: Path) -> None:
    """The file holds plenty of green, red and yellow pixels."""
    draw_predictions(*slices(), tmp_path / "deep" / "predictions.png")
    picture = pixels(tmp_path / "deep" / "predictions.png")
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    for kind in ((green > red + 40), (red > green + 40), (np.minimum(red, green) > blue + 80)):
        assert kind.sum() > 200


def test_reconstructions_are_below_their_slices(tmp_path: Path) -> None:
    """White slices with black reconstructions make a light upper and a dark lower half."""
    white = np.ones((2, SIZE, SIZE))
    draw_reconstructions(white, 0 * white, tmp_path / "r.png")
    picture = pixels(tmp_path / "r.png")
    upper, lower = np.array_split(picture, 2)
    assert (lower == 0).mean() > 0.5
    assert (upper == 255).mean() > 0.5
    picture = reconstruction_picture(white, 0 * white)
    assert (picture.shape, picture.dtype) == ((2 * SIZE, 2 * SIZE, 3), np.uint8)
    assert (picture[:SIZE] == 255).all()
    assert (picture[SIZE:] == 0).all()


def test_curves_show_train_and_dev(tmp_path: Path) -> None:
    """Both colours are there, and one more panel's worth of width than a single loss needs."""
    draw_curves([record(epoch) for epoch in range(1, 8)], tmp_path / "curves.png")
    picture = pixels(tmp_path / "curves.png")
    for colour in ((0x1F, 0x5F, 0xA8), (0xD9, 0x73, 0x0D)):
        assert (np.abs(picture - colour).sum(-1) < 10).sum() > 300


def test_curves_of_one_epoch_without_a_figure(tmp_path: Path) -> None:
    """The first epoch, and undefined figures, draw without a warning."""
    draw_curves([record(1, iou=None)], tmp_path / "curves.png")
    assert pixels(tmp_path / "curves.png").std() > 0


def test_the_same_numbers_give_the_same_file(tmp_path: Path) -> None:
    """Byte for byte, also where the user's own matplotlib settings differ."""
    for name in ("a", "b"):
        draw_curves([record(1), record(2)], tmp_path / f"{name}-c.png")
        draw_predictions(*slices(), tmp_path / f"{name}-p.png")
        matplotlib.rcParams["figure.facecolor"] = "black"
    matplotlib.rcdefaults()
    for kind in ("c", "p"):
        assert (tmp_path / f"a-{kind}.png").read_bytes() == (tmp_path / f"b-{kind}.png").read_bytes()


def test_many_slices_become_eight_columns(tmp_path: Path) -> None:
    """A figure does not grow with the data."""
    few, many = slices(8), slices(20)
    draw_predictions(*few, tmp_path / "few.png")
    draw_predictions(*many, tmp_path / "many.png")
    assert pixels(tmp_path / "few.png").shape == pixels(tmp_path / "many.png").shape
    assert prediction_picture(*many).shape == (2 * SIZE, 8 * SIZE, 3)


def test_close_up_is_around_what_is_marked() -> None:
    """A mark in a corner is cut at the corner, one of 40 pixels with 8 around it; without a mark all is shown."""
    picture = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    picture[:4, :4] = 255
    mark = picture[..., 0] > 0
    near = _close_up(picture, mark)
    assert near.shape == picture.shape
    assert (near[:8, :8] == 255).all()
    assert near.astype(bool).mean() == pytest.approx(4 * picture.astype(bool).mean())
    wide = np.zeros((SIZE, SIZE), dtype=bool)
    wide[10:50, 10:12] = True
    near = _close_up(np.repeat((wide * 255).astype(np.uint8)[..., None], 3, -1), wide)
    assert set(np.flatnonzero(near.any((1, 2)))[[0, -1]]) == {SIZE * 8 // 56 + 1, SIZE * 48 // 56}
    assert np.array_equal(_close_up(picture, np.zeros_like(mark)), picture)


def test_close_up_is_around_the_label_however_much_is_predicted() -> None:
    """A prediction everywhere does not hide a small label; without a label, it is around the prediction."""
    images, labels, masks = slices(2)
    labels[:], masks[:] = False, False
    labels[0, 5:8, 5:8] = masks[0] = True
    masks[1, 40:44, 40:44] = True
    near = _close_ups(overlay(images, labels, masks), labels, masks).astype(int)
    yellow = near[0, ..., 1] > near[0, ..., 2] + 40
    red = near[1, ..., 0] > near[1, ..., 2] + 40
    assert yellow.sum() == 9 * 4
    assert red.sum() == 16 * 4


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    """No epoch, no slice, shapes that differ."""
    images, labels, masks = slices()
    with pytest.raises(ValueError, match="no epoch"):
        draw_curves([], tmp_path / "x.png")
    with pytest.raises(ValueError, match="at least one slice"):
        draw_reconstructions(images[:0], images[:0], tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"\(2, 64, 64\)"):
        draw_predictions(images, labels, masks[:2], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_a_figure_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    """A file where its directory should be."""
    (tmp_path / "m").touch()
    with pytest.raises(StoreError, match=r"figure curves\.png cannot be written"):
        draw_curves([record(1)], tmp_path / "m" / "curves.png")
