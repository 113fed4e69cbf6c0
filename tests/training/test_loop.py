"""The training loop: it learns, it stops on nonsense, and it goes on after a kill as if nothing had happened."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from training_factories import SMALL, TINY, slice_index, slice_set, split

from vaeseg.config import TrainingConfig
from vaeseg.errors import TrainingError
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder
from vaeseg.training.loop import (
    DivergedError,
    Keeping,
    TrainingData,
    TrainingInterruptedError,
    learning_rate,
    score,
    train,
)
from vaeseg.training.observing import EpochReport, Observer, told_both
from vaeseg.training.sources import ResidentSource
from vaeseg.training.state import WeightMean, save_best


class KilledError(Exception):
    """Stands for whatever ends a process between two steps."""


@pytest.fixture(autouse=True)
def every_step_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a training of three steps an epoch can be stopped within one."""
    monkeypatch.setattr("vaeseg.training.loop.CHECK_STEPS", 1)


def squares_data() -> TrainingData:
    slices = slice_set()
    return TrainingData(
        source=ResidentSource(slices, torch.device("cpu")),
        index=slice_index(),
        row_groups=np.zeros(len(slices), dtype=np.int64),
        split=split(),
    )


def trained(
    directory: Path,
    config: TrainingConfig,
    model: VariationalAutoencoder | None = None,
    observer: Observer | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    **keeping: object,
) -> tuple[VariationalAutoencoder, list[EpochReport]]:
    """A model after training on the squares, and what each epoch reported."""
    torch.manual_seed(1)
    model = model or Segmenter(SMALL)
    reports: list[EpochReport] = []
    directory.mkdir(exist_ok=True)
    values = {"directory": directory, "fingerprint": {"data": "d"}, **keeping}
    observer = told_both(replace(observer or Observer(), on_epoch=reports.append), on_epoch=on_epoch)
    train(model, squares_data(), config, Keeping(**values), observer=observer)  # type: ignore[arg-type]
    return model, reports


def same_weights(one: VariationalAutoencoder, other: VariationalAutoencoder) -> bool:
    weights = other.state_dict()
    return all(torch.equal(weight, weights[name]) for name, weight in one.state_dict().items())


def dying_after(n_steps: int) -> Observer:
    steps = itertools.count(1)

    def die(done: int, total: int, losses: object) -> None:
        if next(steps) == n_steps:
            raise KilledError

    return Observer(on_step=die)


def test_decoder_learns_squares(tmp_path: Path) -> None:
    """A few epochs on an easy task find the square in subjects never trained on."""
    _, reports = trained(tmp_path, replace(TINY, epochs=25, learning_rate=1e-2, schedule="cosine"))
    assert [report.epoch for report in reports] == list(range(1, 26))
    assert reports[-1].losses["loss"] < 0.5 * reports[0].losses["loss"]
    assert (reports[-1].dev["iou_label_or_prediction"] or 0.0) > 0.6


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_vae_learns_to_reconstruct(tmp_path: Path, loss: str) -> None:
    """Stage one brings the reconstruction error down and reports the KL divergence beside it."""
    config = replace(TINY, epochs=10, learning_rate=1e-2, kl_weight=1e-3, reconstruction_loss=loss)
    _, reports = trained(tmp_path, config, VariationalAutoencoder(SMALL))
    assert {"loss", "reconstruction", "kl", "total"} <= set(reports[0].dev)
    assert (reports[-1].dev["reconstruction"] or 1.0) < 0.9 * (reports[0].dev["reconstruction"] or 0.0)


def test_frozen_encoder_does_not_move(tmp_path: Path) -> None:
    """With the encoder frozen, its weights and its batch norm statistics stay; the decoder's move."""
    torch.manual_seed(1)
    before = Segmenter(SMALL).state_dict()
    model, _ = trained(tmp_path, replace(TINY, epochs=1, freeze_encoder=True))
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved
    assert all(name.startswith("decoder.") for name in moved)


def test_papers_schedule_steps_down() -> None:
    """5e-3, times 0.6 every 10 epochs."""
    config = TrainingConfig(learning_rate=5e-3, step_epochs=10, step_factor=0.6)
    rates = [learning_rate(config, epochs) for epochs in (0, 9.99, 10, 25)]
    assert rates == pytest.approx([5e-3, 5e-3, 3e-3, 1.8e-3])


def test_cosine_schedule_warms_up_and_ends_at_nothing() -> None:
    """Up in a straight line, at its peak after the warm-up, half of it halfway, zero at the end."""
    config = TrainingConfig(learning_rate=1.0, schedule="cosine", warmup_share=0.1, epochs=10)
    rates = [learning_rate(config, epochs) for epochs in (0.1, 0.5, 1, 5.5, 10)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 0.5, 0.0])


def test_divergence_stops_with_the_last_good_state(tmp_path: Path) -> None:
    """A loss that is no number ends training with one sentence; the state before it can be resumed from."""
    with pytest.raises(TrainingError, match="lower learning_rate"):
        trained(tmp_path, replace(TINY, learning_rate=1e30))
    _, reports = trained(tmp_path, replace(TINY, epochs=1), resume=True)
    assert [report.epoch for report in reports] == [1]


def test_an_epoch_after_which_dev_is_no_number_leaves_the_state_before_it(tmp_path: Path) -> None:
    """The one step of the second epoch is too large: its loss was fine, that of dev is not."""
    config = replace(TINY, epochs=3, batch_size=24, step_epochs=1, step_factor=1e16)
    with pytest.raises(DivergedError, match="in epoch 3, after 24 of 24 slices"):
        trained(tmp_path, config)
    with safe_open(tmp_path / "state.safetensors", framework="pt") as state:
        assert json.loads(state.metadata()["progress"])["epoch"] == 1


@pytest.mark.parametrize("seconds", [300.0, 0.0], ids=["from the epoch's start", "from within the epoch"])
def test_resumed_training_ends_with_the_same_weights(tmp_path: Path, seconds: float) -> None:
    """Stopped in the middle of the third epoch and resumed, weights and losses are equal bit for bit."""
    config = replace(TINY, augmentation="dihedral", intensity_jitter=0.1, crop_size=32, ema_decay=0.9)
    whole, expected = trained(tmp_path / "whole", config)
    with pytest.raises(KilledError):
        trained(tmp_path, config, observer=dying_after(8), seconds=seconds)
    torch.manual_seed(99)
    resumed, reports = trained(tmp_path, config, Segmenter(SMALL), resume=True)
    assert [report.epoch for report in reports] == [3, 4]
    assert same_weights(whole, resumed)
    assert [report.losses for report in reports] == [report.losses for report in expected[2:]]
    assert [report.dev for report in reports] == [report.dev for report in expected[2:]]


def test_a_state_within_an_epoch_is_gone_on_from(tmp_path: Path) -> None:
    """With a state after every step, the steps before the kill are not done again."""
    with pytest.raises(KilledError):
        trained(tmp_path, TINY, observer=dying_after(2), seconds=0.0)
    places: list[int] = []
    trained(
        tmp_path,
        replace(TINY, epochs=1),
        observer=Observer(on_resume=places.append, on_step=lambda done, total, losses: places.append(done)),
        resume=True,
    )
    assert places == [8, 16, 24]


def test_interruption_keeps_the_state_of_the_moment(tmp_path: Path) -> None:
    """Asked to stop, training ends at the next look, says how to go on, and goes on to the same end."""
    whole, _ = trained(tmp_path / "whole", TINY)
    looks = itertools.count(1)
    with pytest.raises(TrainingInterruptedError, match="--resume"):
        trained(tmp_path, TINY, observer=Observer(should_stop=lambda: next(looks) >= 5))
    resumed, reports = trained(tmp_path, TINY, resume=True)
    assert reports[0].epoch == 2
    assert same_weights(whole, resumed)


def test_best_epoch_is_what_is_kept(tmp_path: Path) -> None:
    """Trained on until it is ruined, the model still has the weights of its best epoch, also after a resume."""
    config = replace(TINY, epochs=6, learning_rate=1e-2, step_epochs=3, step_factor=100.0, keep="best_loss")
    model, reports = trained(tmp_path, config)
    losses = [report.dev["loss"] or float("inf") for report in reports]
    best = int(np.argmin(losses)) + 1
    assert best < 6
    assert reports[-1].best_epoch == best
    shorter, _ = trained(tmp_path / "shorter", replace(config, epochs=best, keep="last"))
    assert same_weights(model, shorter)


def test_the_best_weights_of_another_training_are_not_taken(tmp_path: Path) -> None:
    """Where nothing locks, two may train under one name; weights that are gone are one sentence too."""
    config = replace(TINY, epochs=1, keep="best_loss")

    def overwrite(_: EpochReport) -> None:
        save_best(tmp_path / "best.safetensors", Segmenter(SMALL).state_dict(), {"data": "other"})

    with pytest.raises(TrainingError, match="belongs to another training: its data is other, now d"):
        trained(tmp_path, config, on_epoch=overwrite)
    with pytest.raises(TrainingError, match=r"best epoch in .* are gone"):
        trained(tmp_path, config, on_epoch=lambda _: (tmp_path / "best.safetensors").unlink())


def test_without_any_overlap_the_loss_decides() -> None:
    """As long as nothing is found the epoch with the lowest loss is the best; any overlap is better than none."""
    config = replace(TINY, keep="best_iou")
    figures = ((0.0, 2.0), (None, 1.5), (0.0, 1.0), (0.1, 3.0))
    scores = [score({"iou_label_or_prediction": iou, "loss": loss}, config) for iou, loss in figures]
    assert scores == sorted(scores, key=lambda each: each or [])
    assert score({"iou_label_or_prediction": 0.5, "loss": None}, config) is None
    assert score({"loss": 2.0}, TINY) == [-2.0]


def test_patience_stops_early(tmp_path: Path) -> None:
    """Two epochs without a better dev figure end the training."""
    config = replace(TINY, epochs=20, learning_rate=1e-2, step_epochs=3, step_factor=100.0, patience=2)
    _, reports = trained(tmp_path, config)
    assert len(reports) == reports[-1].best_epoch + 2 < 20


def test_weight_mean_follows_slowly() -> None:
    """With a decay of 0.75, three steps of weights at 1 after a start at 0 give 1 - 0.75^3."""
    model = torch.nn.BatchNorm2d(1)
    torch.nn.init.zeros_(model.weight)
    mean = WeightMean(model, 0.75)
    torch.nn.init.ones_(model.weight)
    for _ in range(3):
        model.num_batches_tracked += 1  # type: ignore[operator]
        mean.follow(1000)
    assert mean.weights["weight"].item() == pytest.approx(1 - 0.75**3)
    assert mean.weights["num_batches_tracked"] == 3


def test_weight_mean_forgets_its_first_weights_soon() -> None:
    """In the first step, nine tenths of the mean are new, whatever the decay."""
    model = torch.nn.BatchNorm2d(1)
    torch.nn.init.zeros_(model.weight)
    mean = WeightMean(model, 0.9999)
    torch.nn.init.ones_(model.weight)
    mean.follow(0)
    assert mean.weights["weight"].item() == pytest.approx(0.9)


def test_measured_weights_are_the_running_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mean that stands still the model that is kept has its first weights."""
    monkeypatch.setattr(WeightMean, "follow", lambda self, steps_done: None)
    torch.manual_seed(1)
    first = Segmenter(SMALL)
    model, _ = trained(tmp_path, replace(TINY, epochs=1, ema_decay=0.999999))
    assert same_weights(first, model)


def test_measuring_the_mean_leaves_the_training_alone(tmp_path: Path) -> None:
    """Losses are those of a training that keeps no mean: after each epoch it goes on from its own weights."""
    _, with_mean = trained(tmp_path / "mean", replace(TINY, ema_decay=0.999))
    _, without = trained(tmp_path / "plain", TINY)
    assert [report.losses for report in with_mean] == [report.losses for report in without]
    assert [report.dev for report in with_mean] != [report.dev for report in without]


def test_resume_refuses_another_training(tmp_path: Path) -> None:
    """A state made with other data is not gone on from, and the message says what differs."""
    trained(tmp_path, replace(TINY, epochs=1))
    with pytest.raises(TrainingError, match="its data is d, now other"):
        trained(tmp_path, TINY, resume=True, fingerprint={"data": "other"})


def test_resume_needs_a_whole_state(tmp_path: Path) -> None:
    """Nothing to resume, or a damaged state, is one sentence."""
    with pytest.raises(TrainingError, match="nothing to resume"):
        trained(tmp_path, TINY, resume=True)
    (tmp_path / "state.safetensors").write_bytes(b"junk")
    with pytest.raises(TrainingError, match="damaged"):
        trained(tmp_path, TINY, resume=True)


def test_a_training_on_a_cpu_keeps_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("vaeseg.training.loop.keep_freed_memory", lambda: asked.append(True))
    trained(tmp_path / "t", replace(TINY, epochs=1))
    assert asked == [True]
