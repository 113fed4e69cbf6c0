"""What a training leaves beside its model for people to look at: history, TensorBoard events, curves and examples.

<name>.training/history.jsonl    a line an epoch
<name>.training/tensorboard/     events
<name>.training/curves.png       losses and dev figures
<name>.training/examples.png     stage one: reconstructions; stage two: predictions over labels
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from vaeseg.io.dataset import DataSet, open_data_set
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.models.segmenter import Segmenter
from vaeseg.records import IntArray
from vaeseg.training.figures import draw_curves, draw_predictions, draw_reconstructions
from vaeseg.training.history import HISTORY_FILE, History, read_history
from vaeseg.training.loop import EpochReport, Observer
from vaeseg.training.run import TrainingRequest, chosen_split
from vaeseg.training.sources import batch_of
from vaeseg.training.tensorboard import EVENTS_DIRECTORY, TensorBoard

N_EXAMPLES = 6
"""Dev slices shown, evenly from the first to the last."""


@contextmanager
def chronicled(request: TrainingRequest, observer: Observer) -> Iterator[Observer]:
    """An observer that also writes history and events; curves and examples follow when the training has ended well.

    Raises:
        StoreError: something cannot be written.
    """
    history = History(request.directory / HISTORY_FILE)
    with TensorBoard(request.directory / EVENTS_DIRECTORY) as events:

        def on_epoch(report: EpochReport) -> None:
            history.on_epoch(report)
            events.on_epoch(report)
            observer.on_epoch(report)

        yield replace(observer, on_epoch=on_epoch)
    draw_curves(read_history(history.path), request.directory / "curves.png")
    _draw_examples(request)


def _draw_examples(request: TrainingRequest) -> None:
    data = open_data_set(request.data)
    slices = data.read(_examples(data, request))
    batch = batch_of(slices, torch.device("cpu"))
    model = load_checkpoint(request.output).network()
    with torch.inference_mode():
        outputs = torch.sigmoid(model(batch.images)[0]).squeeze(1).numpy()
    images, path = batch.images.squeeze(1).numpy(), request.directory / "examples.png"
    if isinstance(model, Segmenter):
        masks = outputs >= data.manifest.preprocessing.threshold
        draw_predictions(images, batch.labels.squeeze(1).numpy() > 0, masks, path)
    else:
        draw_reconstructions(images, outputs, path)


def _examples(data: DataSet, request: TrainingRequest) -> IntArray:
    """Dev slices to show: with a label where any has one."""
    dev = chosen_split(data, request).dev
    labelled = dev[data.index.tumour_pixels[dev] > 0]
    shown = labelled if len(labelled) else dev
    places = np.unique(np.linspace(0, len(shown) - 1, N_EXAMPLES).round().astype(int))
    return np.asarray(shown[places])
