"""The training loop: it learns, it stops on nonsense, and it goes on after a kill as if nothing had happened."""

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_factories import SMALL, TINY, request, slice_set, write_msd

from vaeseg.config import TrainingConfig
from vaeseg.errors import TrainingError
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder
from vaeseg.training.batches import whole_batch
from vaeseg.training.loop import EpochReport, Observer, learning_rate, stage_losses, train
from vaeseg.training.run import build_model, run_training
from vaeseg.training.split import split_slices

FINGERPRINT = {"data": "d"}


class KilledError(Exception):
    """Stands for whatever ends a process between two steps."""


def trained(
    tmp_path: Path, config: TrainingConfig, model: VariationalAutoencoder | None = None, **options: object
) -> tuple[VariationalAutoencoder, list[EpochReport]]:
    """A model after training on the squares, and what each epoch reported."""
    torch.manual_seed(1)
    model = model or Segmenter(SMALL)
    reports: list[EpochReport] = []
    slices = slice_set()
    train(
        model,
        slices,
        split_slices(slices, "subject", 0),
        config,
        state_path=tmp_path / "state",
        fingerprint=FINGERPRINT,
        observer=Observer(on_epoch=reports.append),
        **options,  # type: ignore[arg-type]
    )
    return model, reports


def test_decoder_learns_squares(tmp_path: Path) -> None:
    """A few epochs on an easy task find the square in subjects never trained on."""
    _, reports = trained(tmp_path, replace(TINY, epochs=25, learning_rate=1e-2, schedule="cosine"))
    assert [report.epoch for report in reports] == list(range(1, 26))
    assert reports[-1].losses["loss"] < 0.5 * reports[0].losses["loss"]
    assert (reports[-1].dev["iou_label_or_prediction"] or 0.0) > 0.6


def test_vae_learns_to_reconstruct(tmp_path: Path) -> None:
    """Stage one brings the reconstruction error down and reports the KL divergence beside it."""
    config = replace(TINY, epochs=10, learning_rate=1e-2, kl_weight=1e-3)
    _, reports = trained(tmp_path, config, VariationalAutoencoder(SMALL))
    assert set(reports[0].dev) == {"reconstruction", "kl"}
    assert (reports[-1].dev["reconstruction"] or 1.0) < 0.8 * (reports[0].dev["reconstruction"] or 0.0)


def test_frozen_encoder_does_not_move(tmp_path: Path) -> None:
    """With the encoder frozen, its weights and its batch norm statistics stay; the decoder's move."""
    torch.manual_seed(1)
    before = Segmenter(SMALL).state_dict()
    model, _ = trained(tmp_path, replace(TINY, epochs=1, freeze_encoder=True))
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved
    assert all(name.startswith("decoder.") for name in moved)


def test_losses_are_the_sum_of_their_parts() -> None:
    """Stage two: BCE + weight Dice + weight KL; stage one: BCE with the image + weight KL."""
    batch = whole_batch(slice_set(), torch.arange(4).numpy())
    config = replace(TINY, dice_weight=0.5, kl_weight=0.1)
    losses = stage_losses(Segmenter(SMALL), batch, None, config)
    torch.testing.assert_close(losses["loss"], losses["bce"] + 0.5 * losses["dice"] + 0.1 * losses["kl"])
    stage_one = stage_losses(VariationalAutoencoder(SMALL), batch, None, config)
    assert set(stage_one) == {"loss", "bce", "kl"}
    torch.testing.assert_close(stage_one["loss"], stage_one["bce"] + 0.1 * stage_one["kl"])


def test_papers_schedule_steps_down() -> None:
    """5e-3, times 0.6 every 10 epochs."""
    config = TrainingConfig(learning_rate=5e-3, step_epochs=10, step_factor=0.6)
    rates = [learning_rate(config, epoch * 7, steps_per_epoch=7) for epoch in (0, 9, 10, 25)]
    assert rates == pytest.approx([5e-3, 5e-3, 3e-3, 1.8e-3])


def test_cosine_schedule_warms_up_and_ends_at_nothing() -> None:
    """Up in a straight line, at its peak after the warm-up, half of it halfway, nearly zero at the end."""
    config = TrainingConfig(learning_rate=1.0, schedule="cosine", warmup_share=0.1, epochs=10)
    rates = [learning_rate(config, step, steps_per_epoch=10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == max(rates) == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_divergence_stops_with_the_last_good_state(tmp_path: Path) -> None:
    """A loss that is no number ends training with one sentence; the state before it can be resumed from."""
    with pytest.raises(TrainingError, match="lower learning_rate"):
        trained(tmp_path, replace(TINY, learning_rate=1e30))
    _, reports = trained(tmp_path, replace(TINY, epochs=1), resume=True)
    assert [report.epoch for report in reports] == [1]


def test_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Stopped in the middle of the third epoch and resumed, the final weights are equal bit for bit."""
    (tmp_path / "whole").mkdir()
    config = replace(TINY, augmentation="dihedral", intensity_jitter=0.1, crop_size=32, bf16=True)
    whole, _ = trained(tmp_path / "whole", config)
    steps = 0

    def stop(n_slices: int, losses: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 8:
            raise KilledError

    slices = slice_set()
    torch.manual_seed(1)
    with pytest.raises(KilledError):
        train(
            Segmenter(SMALL),
            slices,
            split_slices(slices, "subject", 0),
            config,
            state_path=tmp_path / "state",
            fingerprint=FINGERPRINT,
            observer=Observer(on_step=stop),
        )
    torch.manual_seed(99)
    resumed, reports = trained(tmp_path, config, Segmenter(SMALL), resume=True)
    assert reports[0].epoch == 3
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_resume_refuses_another_training(tmp_path: Path) -> None:
    """A state made with other data is not gone on from, and the message says what differs."""
    trained(tmp_path, replace(TINY, epochs=1))
    slices = slice_set()
    with pytest.raises(TrainingError, match="its data is d, now other"):
        train(
            Segmenter(SMALL),
            slices,
            split_slices(slices, "subject", 0),
            TINY,
            state_path=tmp_path / "state",
            fingerprint={"data": "other"},
            resume=True,
        )


def test_resume_needs_a_whole_state(tmp_path: Path) -> None:
    """Nothing to resume, or a damaged state, is one sentence."""
    with pytest.raises(TrainingError, match="nothing to resume"):
        trained(tmp_path, TINY, resume=True)
    (tmp_path / "state").write_bytes(b"junk")
    with pytest.raises(TrainingError, match="damaged"):
        trained(tmp_path, TINY, resume=True)


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from training_factories import request
from vaeseg.training.loop import Observer
from vaeseg.training.run import run_training

def kill(report):
    if report.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

run_training(request(Path(sys.argv[1]), Path(sys.argv[2])), Observer(on_epoch=kill))
"""


def test_killed_process_resumes_to_the_same_model_file(tmp_path: Path) -> None:
    """After SIGKILL a new process resumes, and the model file equals an uninterrupted one's, byte for byte."""
    data = write_msd(tmp_path / "data")
    whole = run_training(request(data, tmp_path / "whole" / "m.safetensors"), Observer())
    output = tmp_path / "killed" / "m.safetensors"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    died = subprocess.run([sys.executable, "-c", KILLED_RUN, data, output], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not output.exists()
    epochs: list[int] = []
    resumed = run_training(
        request(data, output, resume=True), Observer(on_epoch=lambda report: epochs.append(report.epoch))
    )
    assert epochs == [3, 4]
    assert resumed.digest == whole.digest
    assert not request(data, output).state_path.exists()


def test_run_writes_a_model_that_says_where_it_comes_from(tmp_path: Path) -> None:
    """The file records data, split, settings and figures of the final weights; the caller's random state stays."""
    data, output = write_msd(tmp_path / "data"), tmp_path / "m.safetensors"
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    result = run_training(request(data, output, training=replace(TINY, epochs=1)), Observer())
    assert torch.equal(torch.rand(1), expected)
    checkpoint = load_checkpoint(output)
    assert checkpoint.digest == result.digest
    assert checkpoint.metadata.metrics == result.metrics
    assert {"dev_iou_label_or_prediction", "test_iou_label"} <= set(result.metrics)
    assert '"epochs":1' in checkpoint.metadata.training
    assert (result.n_subjects, result.n_slices, result.refused) == (5, 20, ())
    assert all(value is None or math.isfinite(value) for value in result.metrics.values())


def test_decoder_starts_from_stage_one(tmp_path: Path) -> None:
    """Stage two built on a stage-one file has its weights, and the model file names its digest as parent."""
    data = write_msd(tmp_path / "data")
    vae = tmp_path / "vae.safetensors"
    one_epoch = replace(TINY, epochs=1)
    stage_one = run_training(request(data, vae, stage="vae", training=one_epoch), Observer())
    parent = load_checkpoint(vae)
    ask = request(data, tmp_path / "m.safetensors", training=replace(one_epoch, freeze_encoder=True), parent=parent)
    for name, weight in build_model(ask).state_dict().items():
        assert torch.equal(weight, parent.state[name])
    run_training(ask, Observer())
    model = load_checkpoint(tmp_path / "m.safetensors")
    assert model.metadata.parent_digest == stage_one.digest
    assert torch.equal(model.state["mean.weight"], parent.state["mean.weight"])


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    """A frozen encoder without stage one, and crops that the latent cannot have."""
    with pytest.raises(ValueError, match="must come from stage one"):
        request(tmp_path, tmp_path / "m", training=replace(TINY, freeze_encoder=True))
    with pytest.raises(ValueError, match="crop_size 20"):
        request(tmp_path, tmp_path / "m", training=replace(TINY, crop_size=20))
