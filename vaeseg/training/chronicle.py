"""What a training leaves beside its model for people to look at, besides its history.

<name>.training/tensorboard/     events
<name>.training/curves.png       losses and dev figures
<name>.training/examples.png     stage one: reconstructions; stage two: predictions over labels
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vaeseg.io.dataset import DataSet, open_data_set
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.models.segmenter import Segmenter
from vaeseg.records import IntArray
from vaeseg.training.drawing import examples_of
from vaeseg.training.figures import (
    draw_curves,
    draw_predictions,
    draw_reconstructions,
    prediction_picture,
    reconstruction_picture,
)
from vaeseg.training.history import HISTORY_FILE, read_history
from vaeseg.training.observing import Observer, told_both
from vaeseg.training.run import TrainingRequest, chosen_split
from vaeseg.training.sources import batch_of
from vaeseg.training.tensorboard import EVENTS_DIRECTORY, TensorBoard


@contextmanager
def chronicled(request: TrainingRequest, observer: Observer) -> Iterator[Observer]:
    """An observer that also writes events; curves and examples follow when the training has ended well.

    Raises:
        StoreError: something cannot be written.
    """
    with TensorBoard(request.directory / EVENTS_DIRECTORY) as events:
        yield told_both(observer, on_epoch=events.on_epoch)
        records = read_history(request.directory / HISTORY_FILE)
        if records:  # none where a kill came between the last epoch's state and its line
            draw_curves(records, request.directory / "curves.png")
        _draw_examples(request, events, records[-1].epoch if records else 1)


def _draw_examples(request: TrainingRequest, events: TensorBoard, epoch: int) -> None:
    data = open_data_set(request.data)
    slices = data.read(_examples(data, request))
    batch = batch_of(slices, torch.device("cpu"))
    model = load_checkpoint(request.output).network()
    with torch.inference_mode():
        outputs = torch.sigmoid(model(batch.images)[0]).squeeze(1).numpy()
    images, path = batch.images.squeeze(1).numpy(), request.directory / "examples.png"
    if isinstance(model, Segmenter):
        labels, masks = batch.labels.squeeze(1).numpy() > 0, outputs >= data.manifest.preprocessing.threshold
        draw_predictions(images, labels, masks, path)
        events.add_picture("predictions", prediction_picture(images, labels, masks), epoch)
    else:
        draw_reconstructions(images, outputs, path)
        events.add_picture("reconstructions", reconstruction_picture(images, outputs), epoch)


def _examples(data: DataSet, request: TrainingRequest) -> IntArray:
    """Dev slices to show: with a label where any has one."""
    dev = chosen_split(data, request).dev
    labelled = dev[data.index.tumour_pixels[dev] > 0]
    shown = labelled if len(labelled) else dev
    return examples_of(shown)
