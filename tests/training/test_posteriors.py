"""A frozen encoder is asked once about each slice, and a training is none the worse for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_factories import SMALL, TINY, slice_index, slice_set, split

from vaeseg.config import TrainingConfig
from vaeseg.models.segmenter import Segmenter
from vaeseg.training.loop import Keeping, TrainingData, TrainingInterruptedError, train
from vaeseg.training.observing import EpochReport, Observer
from vaeseg.training.posteriors import Posteriors, kept
from vaeseg.training.sources import ResidentSource, batch_of

FROZEN = replace(TINY, freeze_encoder=True)


def images() -> torch.Tensor:
    return batch_of(slice_set(), torch.device("cpu")).images


def model() -> Segmenter:
    torch.manual_seed(1)
    return Segmenter(SMALL)


def trained(directory: Path, config: TrainingConfig, **more: object) -> tuple[Segmenter, list[EpochReport]]:
    network, reports, slices = model(), list[EpochReport](), slice_set()
    directory.mkdir(exist_ok=True)
    rows = np.zeros(len(slices), dtype=np.int64)
    source = ResidentSource(slices, torch.device("cpu"))
    data = TrainingData(source=source, index=slice_index(), row_groups=rows, split=split())
    stop = more.pop("should_stop", lambda: False)
    observer = Observer(on_epoch=reports.append, should_stop=stop)  # type: ignore[arg-type]
    train(network, data, config, Keeping(directory=directory, **more), observer=observer)  # type: ignore[arg-type]
    return network, reports


def test_posteriors_are_those_of_the_encoder() -> None:
    """In any order, new or kept, they are what `encode` says."""
    network = model().eval()
    kept, whole = Posteriors(network, 30, FROZEN), images()
    for chosen in (np.array([4, 1]), np.arange(30)[::-1].copy(), np.array([2, 2])):
        mean, logvar = kept.of(chosen, whole[chosen])
        with torch.no_grad():
            expected = network.encode(whole[chosen])
        torch.testing.assert_close(mean, expected.mean)
        torch.testing.assert_close(logvar, expected.logvar)


def test_posteriors_do_not_depend_on_company() -> None:
    """Bit for bit the same whichever slices are encoded beside, as a resumed training has others."""
    network, whole = model().eval(), images()
    alone, together = Posteriors(network, 30, FROZEN), Posteriors(network, 30, FROZEN)
    one, all_ = alone.of(np.array([7]), whole[7:8]), together.of(np.arange(30), whole)
    assert torch.equal(one.mean[0], all_.mean[7])
    assert torch.equal(one.logvar[0], all_.logvar[7])


def test_a_slice_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time around the encoder is not run."""
    network = model().eval()
    kept, whole = Posteriors(network, 30, FROZEN), images()
    kept.of(np.arange(30), whole)
    monkeypatch.setattr(network, "encode", None)
    assert kept.of(np.array([3, 29]), whole[[3, 29]]).mean.shape[0] == 2


@pytest.mark.parametrize(
    "change",
    [
        {"augmentation": "flip"},
        {"crop_size": 32},
        {"warp_share": 0.1},
        {"noise": 0.1},
        {"gamma_jitter": 0.1},
        {"intensity_jitter": 0.1},
    ],
)
def test_changed_slices_are_encoded_each_time(change: dict[str, object]) -> None:
    """Whatever changes an image changes its posterior."""
    assert kept(model(), 30, FROZEN) is not None
    assert kept(model(), 30, replace(FROZEN, **change)) is None  # type: ignore[arg-type]


def test_too_many_are_not_kept() -> None:
    """A latent map of a large data set would fill the memory."""
    assert kept(model(), 10**7, FROZEN) is None


def test_training_is_the_same_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are those of a training that runs the encoder in every step, up to rounding."""
    _, kept = trained(tmp_path / "kept", FROZEN)
    monkeypatch.setattr("vaeseg.training.loop.kept", lambda *given: None)
    _, run = trained(tmp_path / "run", FROZEN)
    for one, other in zip(kept, run, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-3)


def test_resumed_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped within an epoch and resumed, with nothing kept from before, weights are equal bit for bit."""
    monkeypatch.setattr("vaeseg.training.loop.CHECK_STEPS", 1)
    whole, _ = trained(tmp_path / "whole", FROZEN)
    looks = iter([False] * 4 + [True] * 100)
    with pytest.raises(TrainingInterruptedError):
        trained(tmp_path / "cut", FROZEN, should_stop=lambda: next(looks))
    resumed, _ = trained(tmp_path / "cut", FROZEN, resume=True)
    weights = resumed.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in whole.state_dict().items())
