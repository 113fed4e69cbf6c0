"""What each epoch gave, as one JSON line an epoch beside the training's state.

The state decides how far a training came; the history follows it. A report of epoch n means that the state had n - 1
epochs, so that lines of later ones, left by a training that was started over or killed between state and history, are
cut away first; so is a last line that the kill tore.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaeseg.durable import write_atomically
from vaeseg.errors import StoreError

if TYPE_CHECKING:
    from vaeseg.training.observing import EpochReport

HISTORY_FILE = "history.jsonl"
"""Its name within `<store>/models/<name>.training/`."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One line of a history."""

    epoch: int
    """From 1."""
    losses: Mapping[str, float | None]
    """Mean over the epoch's slices: `loss`, and its parts before weighting."""
    dev: Mapping[str, float | None]
    """Figures on the dev part; None where undefined."""
    learning_rate: float
    """Of the epoch's last step."""
    slices_per_second: float | None
    """Trained on, evaluation not counted."""
    seconds: float
    """Wall time since the epoch before, evaluation and files included; of a process's first, since its start."""


class History:
    """Appends an epoch at a time; `on_epoch` fits an `Observer`.

    Args:
        path: the file; its directory is made with the first epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last_epoch: int | None = None
        self._started = time.perf_counter()

    def on_epoch(self, report: EpochReport) -> None:
        """Append one line, after cutting away lines of this epoch and later ones.

        Raises:
            StoreError: the file cannot be read or written.
        """
        now = time.perf_counter()
        record = _record(report, now - self._started)
        try:
            if self._last_epoch != report.epoch - 1:
                self._cut(report.epoch - 1)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(record))
        except OSError as error:
            raise _unusable(self.path, "written", error) from error
        self._last_epoch, self._started = report.epoch, now

    def _cut(self, epochs_done: int) -> None:
        kept = [record for record in read_history(self.path) if record.epoch <= epochs_done]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, "".join(map(_line, kept)).encode())


def read_history(path: Path) -> list[EpochRecord]:
    """Every record up to the first line that is not a whole one; none where there is no file.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(path, "read", error) from error
    records: list[EpochRecord] = []
    for line in lines:
        record = _parsed(line)
        if record is None:
            break
        records.append(record)
    return records


def _record(report: EpochReport, seconds: float) -> EpochRecord:
    return EpochRecord(
        epoch=report.epoch,
        losses={name: _finite(value) for name, value in report.losses.items()},
        dev={name: _finite(value) for name, value in report.dev.items()},
        learning_rate=report.learning_rate,
        slices_per_second=_finite(report.slices_per_second),
        seconds=round(seconds, 3),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _line(record: EpochRecord) -> str:
    return json.dumps(asdict(record), allow_nan=False) + "\n"


def _parsed(line: bytes) -> EpochRecord | None:
    """A record, or None for a line that is cut or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        values: dict[str, Any] = json.loads(line)
        record = EpochRecord(**values)
    except (ValueError, TypeError):
        return None
    whole = isinstance(record.epoch, int) and isinstance(record.losses, dict) and isinstance(record.dev, dict)
    return record if whole else None


def _unusable(path: Path, what: str, error: OSError) -> StoreError:
    return StoreError(f"the history in {path.parent.name} cannot be {what}: {error.strerror}")
