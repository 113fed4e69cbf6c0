"""Event files, read back as TensorBoard reads them: length, checksum, event, checksum."""

import io
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from training_factories import TINY, request, write_squares

from vaeseg.errors import StoreError
from vaeseg.training.chronicle import chronicled
from vaeseg.training.observing import EpochReport, Observer
from vaeseg.training.run import run_training
from vaeseg.training.tensorboard import TensorBoard


def report(epoch: int, iou: float | None = 0.5) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        epochs=3,
        losses={"loss": 1 / epoch, "kl": 0.25},
        dev={"iou_label": iou},
        learning_rate=1e-3,
        slices_per_second=64.0,
        best_epoch=1,
    )


def events(directory: Path) -> Iterator[Any]:
    for file in sorted(directory.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event, checksum = data[12 : 12 + length], data[12 + length : 16 + length]
            assert struct.unpack("<I", checksum)[0] == masked_crc32c(event)
            yield Event.FromString(event)
            data = data[16 + length :]


def scalars(directory: Path) -> list[tuple[int, str, float]]:
    values = [(event.step, value) for event in events(directory) for value in event.summary.value]
    return [(step, value.tag, value.simple_value) for step, value in values if not value.HasField("image")]


def test_every_epoch_is_in_the_event_file(tmp_path: Path) -> None:
    """Losses, dev figures, learning rate and speed, with their epoch; on disk before the file is closed."""
    board = TensorBoard(tmp_path / "tensorboard")
    board.on_epoch(report(1))
    board.on_epoch(report(2))
    found = scalars(tmp_path / "tensorboard")
    board.close()
    assert [step for step, *_ in found] == [1] * 5 + [2] * 5
    second = {tag: value for step, tag, value in found if step == 2}
    assert second == {
        "train/loss": 0.5,
        "train/kl": 0.25,
        "dev/iou_label": 0.5,
        "training/learning_rate": pytest.approx(1e-3),
        "training/slices_per_second": 64.0,
    }


def test_an_undefined_figure_is_left_out(tmp_path: Path) -> None:
    """Not measured is a gap in the curve, not 0."""
    with TensorBoard(tmp_path) as board:
        board.on_epoch(report(1, iou=None))
    assert "dev/iou_label" not in {tag for _, tag, _ in scalars(tmp_path)}


def test_pictures_come_back(tmp_path: Path) -> None:
    """A picture is stored without loss."""
    picture = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    with TensorBoard(tmp_path) as board:
        board.add_picture("reconstructions", picture, 4)
    (event,) = [event for event in events(tmp_path) if event.summary.value]
    (value,) = event.summary.value
    assert (event.step, value.tag) == (4, "reconstructions")
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
        assert np.array_equal(np.asarray(image), picture)


def test_a_resumed_training_takes_back_what_it_repeats(tmp_path: Path) -> None:
    """The second process's file begins by a session start at its first epoch, from which TensorBoard purges."""
    for first in (1, 2):
        with TensorBoard(tmp_path) as board:
            for epoch in range(first, 4):
                board.on_epoch(report(epoch))
    assert len(list(tmp_path.iterdir())) == 2
    starts = [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert starts == [1, 2]


def test_a_picture_alone_takes_nothing_back(tmp_path: Path) -> None:
    """A process that only adds the picture of the last epoch leaves that epoch's figures."""
    for add in (
        lambda board: board.on_epoch(report(2)),
        lambda board: board.add_picture("p", np.zeros((4, 4, 3), np.uint8), 2),
    ):
        with TensorBoard(tmp_path) as board:
            add(board)
    starts = [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert starts == [2, 3]


def test_nothing_is_written_without_an_epoch(tmp_path: Path) -> None:
    """No empty event file where nothing happened."""
    with TensorBoard(tmp_path / "tensorboard"):
        pass
    assert not (tmp_path / "tensorboard").exists()


def test_events_that_cannot_be_written_are_a_store_error(tmp_path: Path) -> None:
    """A file where the directory should be."""
    (tmp_path / "tensorboard").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        TensorBoard(tmp_path / "tensorboard").on_epoch(report(1))


def test_a_training_shows_its_examples(tmp_path: Path) -> None:
    """Each stage adds its picture at the last epoch, beside that epoch's figures."""
    data = write_squares(tmp_path / "data", n_subjects=4, slices_each=2)
    for stage, name in (("vae", "reconstructions"), ("decoder", "predictions")):
        training = replace(TINY, epochs=2, dice_weight=0.0)
        asked = request(data, tmp_path / f"{stage}.safetensors", stage=stage, training=training)
        with chronicled(asked, Observer()) as observer:
            run_training(asked, observer)
        found = [
            (event.step, value.tag)
            for event in events(asked.directory / "tensorboard")
            for value in event.summary.value
        ]
        assert (2, name) in found
        assert {(1, "dev/loss"), (2, "dev/loss"), (2, "training/learning_rate")} <= set(found)


def test_a_training_whose_history_is_lost_ends_well(tmp_path: Path) -> None:
    """Killed after its only epoch's state and before its line: the examples are drawn, the curves are not."""
    data = write_squares(tmp_path / "data", n_subjects=4, slices_each=2)
    asked = request(data, tmp_path / "m.safetensors", training=replace(TINY, epochs=1))
    with chronicled(asked, Observer()):
        run_training(asked)
        (asked.directory / "history.jsonl").unlink()
    assert (asked.directory / "examples.png").is_file()
    assert not (asked.directory / "curves.png").exists()
