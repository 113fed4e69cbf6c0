"""Three losses beside each other."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_factories import SMALL, TINY, request, write_squares

from vaeseg.io.dataset import open_data_set
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.training.comparison import LossComparison, compare_losses, draw_comparison
from vaeseg.training.run import run_training


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> LossComparison:
    """Two epochs on ten subjects of three slices."""
    root = tmp_path_factory.mktemp("comparison")
    training = replace(TINY, epochs=2, dice_weight=0.0)
    asked = request(write_squares(root / "data"), root / "x.safetensors", stage="vae", training=training)
    return compare_losses(asked, run_training)


def test_three_models_differ_in_the_loss_alone(comparison: LossComparison) -> None:
    """Same first weights, same data; reconstruction and KL weight are those of the paper's figure."""
    checkpoints = [load_checkpoint(one.model) for one in comparison.losses]
    assert len({checkpoint.digest for checkpoint in checkpoints}) == 3
    assert [one.digest for one in comparison.losses] == [checkpoint.digest for checkpoint in checkpoints]
    settings = [json.loads(checkpoint.metadata.training) for checkpoint in checkpoints]
    losses = [(made.pop("reconstruction_loss"), made.pop("kl_weight")) for made in settings]
    assert losses == [("mse", 0.1), ("bce", 1.0), ("bce", 0.1)]
    assert settings[0] == settings[1] == settings[2]


def test_figures_are_those_of_the_dev_slices(comparison: LossComparison) -> None:
    """Squared error and BCE of every pixel, KL of every image, by hand; no BCE is below an image's own."""
    assert comparison.n_dev_slices == 3
    data = open_data_set(str(comparison.losses[0].model.parent / "data"))
    images = data.read(data.splits["subject"][0].dev).images / 255
    assert np.allclose(comparison.images, images, atol=1e-6)
    own = -(images * np.log(images) + (1 - images) * np.log(1 - images)).mean()
    assert comparison.bce_floor == pytest.approx(own, rel=1e-4)
    for one in comparison.losses:
        drawn = one.reconstructions.astype(np.float64)
        assert one.mse == pytest.approx(np.square(drawn - images).mean(), rel=1e-4)
        assert one.bce == pytest.approx(-(images * np.log(drawn) + (1 - images) * np.log(1 - drawn)).mean(), rel=1e-4)
        assert one.bce > comparison.bce_floor
        assert one.kl > 0
        assert [record.epoch for record in one.records] == [1, 2]
        assert one.kl == pytest.approx((one.records[-1].dev["kl"] or 0) * 64 * 64, rel=0.05)


def test_json_has_a_row_a_loss(comparison: LossComparison) -> None:
    """Names with their units; the length of the latent, against which nats are to be read."""
    result = comparison.as_json()
    assert (result["epochs"], result["image_size"], result["n_dev_slices"]) == (2, 64, 3)
    assert result["latent_numbers"] == SMALL.latent_channels * 8 * 8
    assert [row["loss"] for row in result["losses"]] == ["mse", "bce-full-kl", "bce-tenth-kl"]
    names = {"loss", "title", "model", "digest", "reconstruction_mse", "bce_nats_per_pixel", "kl_nats_per_image"}
    assert all(set(row) == names for row in result["losses"])


def test_the_figure_shows_the_same_slices_four_times(comparison: LossComparison, tmp_path: Path) -> None:
    """White, black and grey reconstructions are told apart in it, and the colours of all three curves are there."""
    levels = (1.0, 0.0, 0.4)
    flat = [
        replace(one, reconstructions=np.full_like(one.reconstructions, level))
        for one, level in zip(comparison.losses, levels, strict=True)
    ]
    draw_comparison(replace(comparison, losses=tuple(flat)), tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as image:
        picture = np.asarray(image.convert("RGB")).astype(int)
    rows = np.array_split(picture[len(picture) - int(len(picture) * 1.7 * 4 / 9.4) :], 4)
    for row, level in zip(rows[1:], levels, strict=True):
        assert (np.abs(row - round(level * 255)) <= 1).all(-1).mean() > 0.5
    for one in flat:
        colour = [int(one.loss.colour[n : n + 2], 16) for n in (1, 3, 5)]
        assert (np.abs(picture - colour).sum(-1) < 10).sum() > 50
