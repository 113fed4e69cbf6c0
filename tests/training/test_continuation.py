"""Trainings that are done once, whatever happened before."""

from dataclasses import replace
from pathlib import Path

import pytest
from training_factories import TINY, request, write_squares

from vaeseg.io.dataset import DataSet, open_data_set
from vaeseg.training.continuation import keyed, train_once
from vaeseg.training.loop import DivergedError
from vaeseg.training.run import TrainedModel, TrainingRequest, run_training

ONE_EPOCH = replace(TINY, epochs=1)


class KilledError(Exception):
    """Stands for whatever ends a process."""


class Trainer:
    """Trains, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[TrainingRequest] = []

    def __call__(self, asked: TrainingRequest) -> TrainedModel:
        self.asked.append(asked)
        return run_training(asked)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return open_data_set(write_squares(tmp_path / "data", n_subjects=5, slices_each=2))


def wanted(data: DataSet, tmp_path: Path, **changes: object) -> TrainingRequest:
    return keyed(
        request(data.location, tmp_path / "m" / "x.safetensors", **{"training": ONE_EPOCH, **changes}), data, "a"
    )


def test_a_model_is_trained_once(data: DataSet, tmp_path: Path) -> None:
    """The second time its file is left as it is."""
    trainer = Trainer()
    path, trained_now = train_once(wanted(data, tmp_path), data, trainer)
    assert trained_now
    before = path.stat().st_mtime_ns
    assert train_once(wanted(data, tmp_path), data, trainer) == (path, False)
    assert len(trainer.asked) == 1
    assert path.stat().st_mtime_ns == before


def test_other_settings_or_data_have_other_names(data: DataSet, tmp_path: Path) -> None:
    """So that they never meet each other's state; the name begins as asked."""
    other = open_data_set(write_squares(tmp_path / "other", n_subjects=6, slices_each=2))
    requests = [
        wanted(data, tmp_path),
        wanted(data, tmp_path, training=replace(ONE_EPOCH, seed=9)),
        wanted(data, tmp_path, half=True),
        wanted(data, tmp_path, parent=tmp_path / "p.safetensors"),
        wanted(other, tmp_path),
    ]
    names = {asked.output.name for asked in requests}
    assert len(names) == len(requests)
    assert all(name.startswith("a-") and name.endswith(".safetensors") for name in names)
    assert {asked.output.parent for asked in requests} == {tmp_path / "m"}


def test_an_interrupted_training_goes_on(data: DataSet, tmp_path: Path) -> None:
    """Where a state is, it is resumed, and nothing else is."""
    asked = wanted(data, tmp_path, training=replace(TINY, epochs=2))
    trainer = Trainer()

    def killed(resumable: TrainingRequest) -> TrainedModel:
        asked.state_path.parent.mkdir(parents=True)
        run_training(replace(resumable, training=asked.training), killed_after_an_epoch())
        raise AssertionError

    with pytest.raises(KilledError):
        train_once(asked, data, killed)
    assert asked.state_path.is_file()
    train_once(asked, data, trainer)
    assert [again.resume for again in trainer.asked] == [True]


def killed_after_an_epoch() -> object:
    from vaeseg.training.observing import EpochReport, Observer

    def kill(report: EpochReport) -> None:
        raise KilledError

    return Observer(on_epoch=kill)


def test_a_model_file_of_something_else_is_trained_again(data: DataSet, tmp_path: Path) -> None:
    """Damage, or a file that was put there with other contents, is no finished training."""
    asked, trainer = wanted(data, tmp_path), Trainer()
    path, _ = train_once(asked, data, trainer)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert train_once(asked, data, trainer) == (path, True)
    other, _ = train_once(wanted(data, tmp_path, training=replace(ONE_EPOCH, seed=4)), data, trainer)
    path.write_bytes(other.read_bytes())
    assert train_once(asked, data, trainer) == (path, True)
    assert path.read_bytes() == whole


def test_what_diverged_is_not_done(data: DataSet, tmp_path: Path) -> None:
    """Its best epoch is there under the name; the same error comes again, and nothing takes it for whole."""
    settings = replace(TINY, epochs=3, batch_size=24, step_epochs=1, step_factor=1e16, keep="best_loss")
    asked = wanted(data, tmp_path, training=settings)
    for _ in range(2):
        with pytest.raises(DivergedError):
            train_once(asked, data, Trainer())
        assert asked.output.is_file()


def test_a_decoder_is_trained_again_when_stage_one_changed(data: DataSet, tmp_path: Path) -> None:
    """The digest of the model it started from is part of what it is."""
    trainer = Trainer()
    one, two = (
        train_once(wanted(data, tmp_path, stage="vae", training=replace(ONE_EPOCH, seed=seed)), data, trainer)[0]
        for seed in (1, 2)
    )
    asked = wanted(data, tmp_path, parent=one)
    train_once(asked, data, trainer)
    assert train_once(asked, data, trainer)[1] is False
    one.write_bytes(two.read_bytes())
    assert train_once(asked, data, trainer)[1] is True
