"""One line an epoch, whatever kills the process."""

import json
import math
from pathlib import Path

import pytest

from vaeseg.errors import StoreError
from vaeseg.training.history import History, read_history
from vaeseg.training.observing import EpochReport


def report(epoch: int, loss: float = 0.5, iou: float | None = 0.25) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        epochs=9,
        losses={"loss": loss, "bce": loss, "kl": 0.01},
        dev={"loss": loss + 0.1, "iou_label": iou},
        learning_rate=1e-3,
        slices_per_second=80.0,
        best_epoch=1,
    )


def written(path: Path, *epochs: int) -> None:
    history = History(path)
    for epoch in epochs:
        history.on_epoch(report(epoch, loss=1 / epoch))


def test_records_come_back(tmp_path: Path) -> None:
    """What was reported is what is read, in order; every line is JSON by the documented names."""
    path = tmp_path / "m.training" / "history.jsonl"
    written(path, 1, 2)
    records = read_history(path)
    assert [(record.epoch, record.losses["loss"]) for record in records] == [(1, 1.0), (2, 0.5)]
    assert records[0].dev == {"loss": 1.1, "iou_label": 0.25}
    assert (records[0].learning_rate, records[0].slices_per_second) == (1e-3, 80.0)
    assert records[0].seconds >= 0
    names = {"epoch", "losses", "dev", "learning_rate", "slices_per_second", "seconds"}
    assert all(set(json.loads(line)) == names for line in path.read_text().splitlines())


def test_nothing_is_read_where_nothing_was_written(tmp_path: Path) -> None:
    """A training that was never begun has no records."""
    assert read_history(tmp_path / "history.jsonl") == []


def test_undefined_figures_are_null(tmp_path: Path) -> None:
    """None and NaN are both null in the file: it stays JSON."""
    path = tmp_path / "history.jsonl"
    History(path).on_epoch(report(1, loss=math.nan, iou=None))
    assert "NaN" not in path.read_text()
    (record,) = read_history(path)
    assert record.losses["loss"] is None
    assert record.dev == {"loss": None, "iou_label": None}


def test_a_torn_last_line_is_dropped_and_replaced(tmp_path: Path) -> None:
    """A kill in the middle of a line costs that line; the next process writes the epoch again."""
    path = tmp_path / "history.jsonl"
    written(path, 1, 2, 3)
    whole = path.read_bytes()
    for cut in range(len(whole) - 40, len(whole)):
        path.write_bytes(whole[:cut])
        assert [record.epoch for record in read_history(path)] == [1, 2]
    written(path, 3)
    assert [record.epoch for record in read_history(path)] == [1, 2, 3]


def test_a_resume_forgets_what_the_state_has_not(tmp_path: Path) -> None:
    """Going on with epoch 3 after epochs up to 5 were written leaves 1 to 3; starting over leaves 1."""
    path = tmp_path / "history.jsonl"
    written(path, 1, 2, 3, 4, 5)
    written(path, 3)
    assert [record.epoch for record in read_history(path)] == [1, 2, 3]
    written(path, 1)
    assert [record.epoch for record in read_history(path)] == [1]


@pytest.mark.parametrize("junk", [b"\n", b"[]\n", b'{"epoch": 1}\n', b'{"epoch": "x"', b"\xff\xfe\n"])
def test_reading_stops_at_the_first_damaged_line(tmp_path: Path, junk: bytes) -> None:
    """What follows damage cannot be trusted."""
    path = tmp_path / "history.jsonl"
    written(path, 1, 2)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + junk + second)
    assert [record.epoch for record in read_history(path)] == [1]


def test_a_history_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    """A file where the directory should be: the error names the training, not the path."""
    (tmp_path / "m.training").touch()
    with pytest.raises(StoreError, match=r"history in m\.training cannot be"):
        History(tmp_path / "m.training" / "history.jsonl").on_epoch(report(1))
