"""From a request to a model file."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_factories import SMALL, TINY, request, write_squares

from vaeseg.config import Precision
from vaeseg.distributed.train import Workers, train_model
from vaeseg.errors import TrainingError, UsageError
from vaeseg.io.dataset import open_data_set
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.training.chronicle import chronicled
from vaeseg.training.history import read_history
from vaeseg.training.loop import DivergedError, train
from vaeseg.training.observing import Observer
from vaeseg.training.parallel import Worker
from vaeseg.training.run import _computed_in, build_model, check_workers, chosen_split, run_training, stays_in_memory
from vaeseg.training.state import Progress

KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from training_factories import request
from vaeseg.training.observing import Observer
from vaeseg.training.run import run_training

def kill(report):
    if report.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

run_training(request(sys.argv[1], Path(sys.argv[2])), Observer(on_epoch=kill))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_squares(tmp_path_factory.mktemp("data") / "set")


def test_killed_process_resumes_to_the_same_model_file(data: str, tmp_path: Path) -> None:
    """After SIGKILL a new process resumes, and the model file equals an uninterrupted one's, byte for byte."""
    whole = run_training(request(data, tmp_path / "whole" / "m.safetensors"))
    output = tmp_path / "killed" / "m.safetensors"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
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


def test_a_name_is_trained_once_at_a_time(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second training of the name is refused while the first runs, which ends as if nothing had been."""
    monkeypatch.setattr("vaeseg.training.lock.WAIT_SECONDS", 0.0)
    config = replace(TINY, epochs=2, keep="best_loss")
    ask = request(data, tmp_path / "m.safetensors", training=config)

    def second(_: object) -> None:
        with pytest.raises(UsageError, match="m is being trained by another process"):
            run_training(replace(ask, training=replace(config, seed=4)))

    alone = run_training(replace(ask, output=tmp_path / "alone.safetensors"))
    assert run_training(ask, Observer(on_epoch=second)).digest == alone.digest


def test_run_writes_a_model_that_says_where_it_comes_from(data: str, tmp_path: Path) -> None:
    """The file records data, split, settings, figures and whom it has seen; the caller's random state stays."""
    output = tmp_path / "m.safetensors"
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    result = run_training(request(data, output, training=replace(TINY, epochs=1, keep="best_iou")))
    assert torch.equal(torch.rand(1), expected)
    checkpoint = load_checkpoint(output)
    assert checkpoint.digest == result.digest
    assert checkpoint.metadata.metrics == result.metrics
    assert {"dev_iou_label_or_prediction", "test_iou_label"} <= set(result.metrics)
    assert json.loads(checkpoint.metadata.training)["epochs"] == 1
    assert checkpoint.metadata.workers == 1
    assert (result.n_subjects, result.n_slices, result.epochs, result.best_epoch) == (10, 30, 1, 1)
    assert all(value is None or math.isfinite(value) for value in result.metrics.values())
    assert len(checkpoint.metadata.seen_tokens) == 9, "eight subjects to train on, one to choose by"
    assert {path.name for path in (tmp_path / "m.training").iterdir()} == {"history.jsonl", "lock"}


def test_a_training_that_diverges_ends_with_its_best_epoch(data: str, tmp_path: Path) -> None:
    """It is an error all the same, which names the model; the state before is there, and leads there again."""
    good = replace(TINY, epochs=1, batch_size=24, step_epochs=1, step_factor=1e16)
    run_training(request(data, tmp_path / "good.safetensors", training=good))
    ask = request(data, tmp_path / "m.safetensors", training=replace(good, epochs=3, keep="best_loss"))
    for resume in (False, True):
        with pytest.raises(DivergedError, match=r"lower learning_rate .* m is written .* of epoch 1, the best"):
            run_training(replace(ask, resume=resume))
        best, wanted = (load_checkpoint(tmp_path / f"{name}.safetensors").state for name in ("m", "good"))
        assert all(torch.equal(best[name], weight) for name, weight in wanted.items())
        assert ask.state_path.is_file()


def test_decoder_starts_from_stage_one(data: str, tmp_path: Path) -> None:
    """Stage two built on a stage-one file has its weights, and the model file names its digest as parent."""
    vae = tmp_path / "vae.safetensors"
    one_epoch = replace(TINY, epochs=1)
    stage_one = run_training(request(data, vae, stage="vae", training=one_epoch))
    parent = load_checkpoint(vae)
    ask = request(data, tmp_path / "m.safetensors", training=replace(one_epoch, freeze_encoder=True), parent=vae)
    for name, weight in build_model(ask, parent).state_dict().items():
        assert torch.equal(weight, parent.state[name])
    run_training(ask)
    model = load_checkpoint(tmp_path / "m.safetensors")
    assert model.metadata.parent_digest == stage_one.digest
    assert set(parent.metadata.seen_tokens) <= set(model.metadata.seen_tokens)
    assert torch.equal(model.state["mean.weight"], parent.state["mean.weight"])
    with pytest.raises(TrainingError, match="does not fit"):
        run_training(replace(ask, architecture=replace(SMALL, base_width=2)))


def test_a_decoder_is_trained_further_on_other_data(data: str, tmp_path: Path) -> None:
    """Begun with the weights of another stage two; the subjects of both count as seen."""
    one_epoch = replace(TINY, epochs=1)
    first = tmp_path / "first.safetensors"
    run_training(request(data, first, training=one_epoch))
    parent = load_checkpoint(first)
    mine = write_squares(tmp_path / "mine", n_subjects=4)
    ask = request(mine, tmp_path / "m.safetensors", training=replace(one_epoch, learning_rate=1e-9), parent=first)
    run_training(ask)
    model = load_checkpoint(ask.output)
    assert model.metadata.parent_digest == parent.digest
    assert set(parent.metadata.seen_tokens) <= set(model.metadata.seen_tokens)
    for name, weight in parent.network().named_parameters():
        assert torch.allclose(model.state[name], weight, atol=1e-6), name


@pytest.mark.parametrize("stage", ["vae", "decoder"])
def test_a_training_that_diverged_writes_nothing(data: str, tmp_path: Path, stage: str) -> None:
    """One step that is too large: its loss was fine, the network behind it is not. The older model stays."""
    output = tmp_path / "m.safetensors"
    output.write_bytes(b"older")
    one_step = replace(TINY, epochs=1, batch_size=64, learning_rate=1e12, schedule="step", keep="last")
    with pytest.raises(TrainingError, match=r"diverged: the loss on the dev part.*no model was written.*now 1e\+12"):
        run_training(request(data, output, stage=stage, training=one_step))
    assert output.read_bytes() == b"older"
    assert (tmp_path / "m.training" / "state.safetensors").exists()


def test_weights_that_are_not_finite_are_divergence(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the figures are: a variance without end makes zeros."""

    def overflowed(model: torch.nn.Module, *_: object, **__: object) -> Progress:
        model.state_dict()["encoder.0.1.running_var"].fill_(math.inf)
        model.eval()
        return Progress()

    monkeypatch.setattr("vaeseg.training.run.train", overflowed)
    with pytest.raises(TrainingError, match=r"diverged: weight encoder.0.1.running_var is not finite"):
        run_training(request(data, tmp_path / "m.safetensors"))
    assert not (tmp_path / "m.safetensors").exists()


def test_test_figures_are_not_of_whom_the_model_before_has_seen(data: str, tmp_path: Path) -> None:
    """On another data set, in which the same subjects are kept back: null; on the same split all is measured."""
    one_epoch = replace(TINY, epochs=1)
    vae = tmp_path / "vae.safetensors"
    run_training(request(data, vae, stage="vae", training=one_epoch))
    fewer = write_squares(tmp_path / "fewer", n_subjects=3)
    for name, known in (("same", data), ("fewer", fewer)):
        metrics = run_training(request(known, tmp_path / f"{name}.safetensors", training=one_epoch, parent=vae)).metrics
        assert metrics["dev_loss"] is not None
        assert [metrics[f"test_{figure}"] is None for figure in ("loss", "bce", "iou_label")] == [name == "fewer"] * 3


@pytest.mark.parametrize(("precision", "recorded"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_a_model_says_what_it_computed_in(data: str, tmp_path: Path, precision: Precision, recorded: str) -> None:
    """Which `auto` leaves to the hardware."""
    trained = run_training(
        request(data, tmp_path / "m.safetensors", training=replace(TINY, epochs=1, precision=precision))
    )
    assert load_checkpoint(trained.path).metadata.computed_in == recorded


def test_a_model_says_what_all_workers_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name once, on unlike hardware."""
    monkeypatch.setattr(Worker, "gathered", lambda _, own: [own, "bfloat16", "bfloat16"])
    assert _computed_in(build_model(request("", Path("m")), None), TINY, Worker()) == "bfloat16, float32"


def test_figures_of_half_precision_are_those_of_the_file(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured once more from the file's own weights, and not what they were before they were rounded."""
    one_epoch = replace(TINY, epochs=1)
    whole, half = (
        run_training(request(data, tmp_path / f"{half}.safetensors", training=one_epoch, half=half))
        for half in (False, True)
    )
    monkeypatch.setattr("vaeseg.training.run.train", lambda *_, **__: Progress())
    again = run_training(request(data, tmp_path / "again.safetensors", parent=half.path))
    assert half.metrics == pytest.approx(again.metrics, rel=1e-6)
    assert half.metrics != pytest.approx(whole.metrics, rel=1e-6)


def test_weights_too_large_for_half_precision_are_not_lost(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused while the state is there, from which the same training ends without --half."""

    def with_a_large_weight(model: torch.nn.Module, *arguments: Any, **options: Any) -> Progress:
        progress = train(model, *arguments, **options)  # type: ignore[arg-type]
        model.state_dict()["mean.weight"][0, 0] = 70_000.0
        return progress

    monkeypatch.setattr("vaeseg.training.run.train", with_a_large_weight)
    ask = request(data, tmp_path / "m.safetensors", training=replace(TINY, epochs=1), half=True)
    with pytest.raises(TrainingError, match=r"weight mean.weight does not fit .* 65504; .*--resume and without --half"):
        run_training(ask)
    assert not ask.output.exists()
    run_training(replace(ask, half=False, resume=True))
    assert float(load_checkpoint(ask.output).state["mean.weight"].max()) == 70_000.0


def test_people_find_curves_and_examples_beside_the_model(data: str, tmp_path: Path) -> None:
    """History, events and pictures; for stage one reconstructions, for stage two predictions."""
    for stage in ("vae", "decoder"):
        ask = request(data, tmp_path / f"{stage}.safetensors", stage=stage, training=replace(TINY, epochs=2))
        told: list[int] = []
        with chronicled(ask, Observer(on_epoch=lambda report, told=told: told.append(report.epoch))) as observer:
            run_training(ask, observer)
        assert told == [1, 2]
        assert [record.epoch for record in read_history(ask.directory / "history.jsonl")] == [1, 2]
        names = {path.name for path in ask.directory.iterdir()}
        assert names == {"history.jsonl", "tensorboard", "curves.png", "examples.png", "lock"}


def test_what_a_data_set_cannot_give_is_a_usage_error(data: str, tmp_path: Path) -> None:
    """Another slice size, labels or folds that are not there: each names what it found."""
    bare = write_squares(tmp_path / "bare", with_labels=False)
    small = write_squares(tmp_path / "small", n_subjects=2)
    output = tmp_path / "m.safetensors"
    with pytest.raises(UsageError, match="64 pixel slices, the network takes 128"):
        run_training(request(data, output, architecture=replace(SMALL, image_size=128)))
    with pytest.raises(UsageError, match="no labels"):
        run_training(request(bare, output))
    with pytest.raises(UsageError, match="1 splits by subject, none has the number 1"):
        run_training(request(data, output, training=replace(TINY, fold=1)))
    with pytest.raises(UsageError, match="needs three subjects"):
        run_training(request(small, output))
    with pytest.raises(UsageError, match="no data set"):
        run_training(request(str(tmp_path / "nowhere"), output))
    assert not output.exists()


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_split_with_an_empty_part_is_a_usage_error(tmp_path: Path, part: str) -> None:
    """Split files may be edited; a part that is missed is named with its file. Nothing has to be kept back as test."""
    location = write_squares(tmp_path / "data", n_subjects=3, slices_each=2)
    path = tmp_path / "data" / "splits_slices.json"
    (fold,) = json.loads(path.read_text())
    by_slice = request(location, tmp_path / "m.safetensors", training=replace(TINY, split="slice"))
    path.write_text(json.dumps([fold | {"test": []}]))
    assert len(chosen_split(open_data_set(location), by_slice).test) == 0
    path.write_text(json.dumps([fold | {part: []}]))
    with pytest.raises(UsageError, match=rf"the {part} part of split 0 in splits_slices\.json is empty"):
        run_training(by_slice)


def test_more_workers_than_slices_is_a_usage_error(data: str, tmp_path: Path) -> None:
    """Before any worker is started; draws with replacement may be more than there are slices."""
    ask = request(data, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="25 workers cannot share the 24 slices"):
        train_model(ask, Workers(fewest=2, most=25), Observer())
    check_workers(replace(ask, training=replace(TINY, slices_per_epoch=25)), 25)


def test_a_training_has_no_more_threads_than_cores(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the process may use, of which torch knows nothing."""
    before, seen = torch.get_num_threads(), set[int]()
    monkeypatch.setattr("vaeseg.training.run.usable_cores", lambda: 1)
    torch.set_num_threads(2)
    try:
        observer = Observer(on_epoch=lambda _: seen.add(torch.get_num_threads()))
        run_training(request(data, tmp_path / "m.safetensors"), observer)
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    """A frozen encoder without stage one, crops that the latent cannot have, an IoU that stage one has not."""
    with pytest.raises(ValueError, match="must come from stage one"):
        request("d", tmp_path / "m", training=replace(TINY, freeze_encoder=True))
    with pytest.raises(ValueError, match="crop_size 20"):
        request("d", tmp_path / "m", training=replace(TINY, crop_size=20))
    with pytest.raises(ValueError, match="no IoU"):
        request("d", tmp_path / "m", stage="vae", training=replace(TINY, keep="best_iou"))


def test_memory_decides_where_slices_are_kept(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` keeps a set that fits; the other two are orders."""
    ask = request(data, tmp_path / "m.safetensors")
    assert stays_in_memory(ask)
    assert not stays_in_memory(replace(ask, memory="stream"))
    monkeypatch.setattr("vaeseg.training.run.memory_available", lambda: 2000)
    assert not stays_in_memory(ask)
    assert stays_in_memory(replace(ask, memory="resident"))
