"""Figures on slices that are not trained on, from networks whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_factories import SMALL, TINY, slice_index, slice_set

from vaeseg.io.slices import SliceSet
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import Posterior, VariationalAutoencoder
from vaeseg.training.evaluate import EVALUATION_BATCH, evaluate
from vaeseg.training.sources import ResidentSource


class Bright(Segmenter):
    """Calls everything above an intensity of 0.5 tumour, which is exactly the label of `slice_set`."""

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Posterior]:
        return (images - 0.5) * 100, Posterior(images, images)


def figures_of(
    model: VariationalAutoencoder, indices: np.ndarray, slices: SliceSet | None = None
) -> dict[str, float | None]:
    source = ResidentSource(slices or slice_set(), torch.device("cpu"))
    return evaluate(model, source, slice_index(), indices, TINY, 0.5)


def test_perfect_masks_score_one() -> None:
    """Slices without label and prediction do not count, all others are 1."""
    figures = figures_of(Bright(SMALL), np.arange(30))
    assert [figures[name] for name in ("iou_label_or_prediction", "iou_label", "iou_subject")] == [1.0, 1.0, 1.0]


def test_false_positives_lower_only_the_papers_figure() -> None:
    """A square lit up on the empty slice of each subject costs a third of the slices their IoU."""
    slices = slice_set()
    slices.images[::3, :5, :5] = 255
    figures = figures_of(Bright(SMALL), np.arange(30), slices)
    assert figures["iou_label"] == 1.0
    assert figures["iou_label_or_prediction"] == pytest.approx(2 / 3)
    assert figures["iou_subject"] == pytest.approx(2 / 3)


def test_nothing_to_measure_is_none() -> None:
    """Without any label or prediction there is no overlap; it is not 0."""
    figures = figures_of(Bright(SMALL), np.array([0, 3]))
    assert [figures[name] for name in ("iou_label_or_prediction", "iou_label", "iou_subject")] == [None] * 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_iou(value: float) -> None:
    """One slice suffices: NaN is not at or above any threshold, which would be a mask of nothing."""

    class Broken(Bright):
        def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Posterior]:
            logits, posterior = super().forward(images, noise)
            return torch.where(images > 0.99, value, logits), posterior

    slices = slice_set()
    slices.images[1, 0, 0] = 255
    figures = figures_of(Broken(SMALL), np.arange(30), slices)
    names = ("loss", "iou_label_or_prediction", "iou_label", "iou_subject")
    assert [figures[name] for name in names] == [None] * 4


def test_subjects_are_those_of_the_slices_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts of four and in any order, each slice counts for its own subject."""
    monkeypatch.setitem(EVALUATION_BATCH, "cpu", 4)
    slices = slice_set()
    slices.images[4:6] = 0
    figures = figures_of(Bright(SMALL), np.array([7, 29, 5, 8, 28, 4]), slices)
    assert figures["iou_subject"] == pytest.approx(2 / 3)


def test_reconstruction_figures_are_means_over_all_pixels() -> None:
    """A network that always says one half costs ln 2 a pixel, whatever the parts' sizes."""
    model = VariationalAutoencoder(SMALL)
    last = model.decoder[-1]
    assert isinstance(last, nn.Conv2d)
    with torch.no_grad():
        for part in (last, model.mean, model.logvar):
            for weight in (part.weight, part.bias):
                assert weight is not None
                weight.zero_()
    figures = figures_of(model, np.arange(19))
    assert figures["reconstruction"] == pytest.approx(math.log(2))
    assert figures["kl"] == pytest.approx(0.0)
    assert figures["total"] == pytest.approx(math.log(2))
