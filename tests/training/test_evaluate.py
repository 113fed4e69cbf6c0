"""Figures on slices that are not trained on, from networks whose answer is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_factories import SMALL, slice_set

from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import Posterior, VariationalAutoencoder
from vaeseg.training.evaluate import evaluate, predict


class Bright(Segmenter):
    """Calls everything above an intensity of 0.5 tumour, which is exactly the label of `slice_set`."""

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Posterior]:
        return (images - 0.5) * 100, Posterior(images, images)


def test_perfect_masks_score_one() -> None:
    """Slices without label and prediction do not count, all others are 1."""
    slices = slice_set()
    assert evaluate(Bright(SMALL), slices, np.arange(30), 0.5, bf16=False) == {
        "iou_label_or_prediction": 1.0,
        "iou_label": 1.0,
        "iou_subject": 1.0,
    }


def test_false_positives_lower_only_the_papers_figure() -> None:
    """A square lit up on the empty slice of each subject costs a third of the slices their IoU."""
    slices = slice_set()
    slices.images_hu[::3, :5, :5] = 300
    figures = evaluate(Bright(SMALL), slices, np.arange(30), 0.5, bf16=False)
    assert figures["iou_label"] == 1.0
    assert figures["iou_label_or_prediction"] == pytest.approx(2 / 3)
    assert figures["iou_subject"] == pytest.approx(2 / 3)


def test_nothing_to_measure_is_none() -> None:
    """Without any label or prediction there is no figure; it is not 0."""
    figures = evaluate(Bright(SMALL), slice_set(), np.array([0, 3]), 0.5, bf16=False)
    assert set(figures.values()) == {None}


def test_masks_come_in_the_order_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole slices in parts of any size, in order."""
    monkeypatch.setattr("vaeseg.training.evaluate.EVALUATION_BATCH", 4)
    slices, indices = slice_set(), np.array([7, 2, 5, 1, 29, 4])
    assert np.array_equal(predict(Bright(SMALL), slices, indices, 0.5, bf16=False), slices.labels(indices))


def test_reconstruction_figures_are_means_over_all_pixels() -> None:
    """A network that always says one half costs ln 2 a pixel, whatever the parts' sizes."""
    model = VariationalAutoencoder(SMALL)
    last = model.decoder[-1]
    assert isinstance(last, nn.Conv2d)
    with torch.no_grad():
        for weight in (
            last.weight,
            last.bias,
            model.mean.weight,
            model.mean.bias,
            model.logvar.weight,
            model.logvar.bias,
        ):
            assert weight is not None
            weight.zero_()
    figures = evaluate(model, slice_set(), np.arange(19), 0.5, bf16=False)
    assert figures["reconstruction"] == pytest.approx(math.log(2))
    assert figures["kl"] == pytest.approx(0.0)
