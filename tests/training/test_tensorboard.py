"""Event files, read back as TensorBoard reads them: length, checksum, event, checksum."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from vaeseg.errors import StoreError
from vaeseg.training.loop import EpochReport
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
