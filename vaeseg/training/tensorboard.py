"""A training as TensorBoard events, to watch many of them in one place.

    tensorboard --logdir STORE/models

Written by the calling thread, and on disk after every epoch: tensorboardX's own SummaryWriter hands events to a thread
that dies on a full disk, after which the training would wait for it for ever.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from vaeseg.errors import StoreError

if TYPE_CHECKING:
    import numpy as np
    from tensorboardX.event_file_writer import EventsWriter

    from vaeseg.training.observing import EpochReport

EVENTS_DIRECTORY = "tensorboard"
"""Its name within `<store>/models/<name>.training/`."""


class TensorBoard:
    """Writes losses, dev figures, learning rate and slices a second of each epoch; `on_epoch` fits an `Observer`.

    Args:
        directory: of the event files; each process adds one, with its first epoch, and tells TensorBoard to forget what
            older files say of that epoch and later ones.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: EventsWriter | None = None

    def on_epoch(self, report: EpochReport) -> None:
        """Add an epoch's figures; what is undefined is left out.

        Raises:
            StoreError: they cannot be written.
        """
        from tensorboardX.summary import scalar

        known = {name: value for name, value in scalars(report).items() if value is not None}
        self._add([scalar(name, value) for name, value in known.items()], report.epoch, report.epoch)

    def add_picture(self, name: str, picture: npt.NDArray[np.uint8], epoch: int) -> None:
        """Add an image beside an epoch's figures, which stay.

        Args:
            name: such as `reconstructions`.
            picture: (height, width, 3) uint8, as `training.figures` makes them.
            epoch: from 1.

        Raises:
            StoreError: it cannot be written.
        """
        from tensorboardX.summary import image

        self._add([image(name, picture, dataformats="HWC")], epoch, epoch + 1)

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, summaries: list[Any], epoch: int, forgotten_from: int) -> None:
        """Write events; a file that is opened for them takes back what older ones say of some epoch and later ones."""
        try:
            self._writer = self._writer or _opened(self._directory, forgotten_from)
            for summary in summaries:
                self._writer.write_event(_event(epoch, summary=summary))
            self._writer.flush()
        except OSError as error:
            raise StoreError(f"TensorBoard events cannot be written: {error.strerror}") from error


def scalars(report: EpochReport) -> Mapping[str, float | None]:
    """What TensorBoard shows of an epoch, by tag."""
    return {
        **{f"train/{name}": value for name, value in report.losses.items()},
        **{f"dev/{name}": value for name, value in report.dev.items()},
        "training/learning_rate": report.learning_rate,
        "training/slices_per_second": report.slices_per_second,
    }


def _opened(directory: Path, forgotten_from: int) -> EventsWriter:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import SessionLog

    directory.mkdir(parents=True, exist_ok=True)
    writer = EventsWriter(str(directory / "events"), f".{os.getpid()}.{time.monotonic_ns()}")
    writer.write_event(_event(forgotten_from, session_log=SessionLog(status=SessionLog.START)))
    return writer


def _event(epoch: int, **content: Any) -> Any:
    from tensorboardX.proto.event_pb2 import Event

    return Event(step=epoch, wall_time=time.time(), **content)
