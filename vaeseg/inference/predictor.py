"""From slices on the model grid to masks; the same input gives the same mask, bit for bit.

K slices of one volume, S side of the model grid.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaeseg.config import Precision
from vaeseg.errors import CheckpointError, ReadingError, UsageError
from vaeseg.inference.engine import Engine, engine_for
from vaeseg.inference.mask_bits import from_bits, to_bits
from vaeseg.limits import usable_cores
from vaeseg.models.checkpoint import Checkpoint
from vaeseg.models.precision import name_of
from vaeseg.models.preprocessing import intensity_ranges, normalise
from vaeseg.models.segmenter import Segmenter
from vaeseg.records import BoolArray, IntArray, Reason

CPU_CHUNK = 4
"""Slices in one pass on a CPU: larger batches fall out of the cache and are slower, whatever `batch_size` says."""
GPU_LANES = 2
"""Passes under way at a time."""


class Predictor:
    """A segmenter, ready on its device. Preprocessing and threshold come from the checkpoint and nowhere else.

    Every pass has exactly `chunk` slices, the last one filled up with empty slices: kernels are chosen by shape, so
    that a result would otherwise depend on how many slices happen to share a pass.

    On a CPU each core has a pass of its own instead of a share of one: threads that share a pass wait for each other
    at every layer, and for whatever else runs on their cores. So a mask does not depend on their number either.

    Args:
        checkpoint: a segmenter.
        device: `auto` takes a CUDA device where there is one.
        batch_size: slices in one pass on a GPU, and the most on a CPU.
        num_threads: passes at a time on a CPU, a thread each; None takes as many as torch would take threads and
            this process has cores.
        precision: what it computes in; `auto` makes masks depend on the hardware, within rounding.

    Raises:
        CheckpointError: the checkpoint is a stage-one model.
        UsageError: `cuda` on a machine without it.
        ValueError: batch_size is below 1.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        batch_size: int = 32,
        num_threads: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        model = checkpoint.network()
        if not isinstance(model, Segmenter):
            raise CheckpointError("the model is a stage-one autoencoder, which finds no tumours: train a decoder on it")
        self.device = choose_device(device)
        self.preprocessing = checkpoint.preprocessing
        self.chunk = min(batch_size, CPU_CHUNK) if self.device.type == "cpu" else batch_size
        self._lanes = _cpu_lanes(num_threads) if self.device.type == "cpu" else _gpu_lanes(self.device)
        made = self._lanes.submit(engine_for, model, self.device, precision, self.chunk)
        self.engine: Engine = made.result()  # made in a lane: layouts are chosen for as many threads as will compute
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # it is there before other lanes use it
            torch.cuda.empty_cache()

    @property
    def computes_in(self) -> str:
        """`float32` or `bfloat16`."""
        return name_of(self.engine.dtype)

    def segment(self, slices_hu: npt.NDArray[np.int16]) -> BoolArray:
        """Mask of one volume.

        Args:
            slices_hu: (K, S, S) int16 HU, the whole volume on the model grid in axial order.

        Returns:
            (K, S, S) bool.

        Raises:
            ReadingError: the model's values for some slice are not finite.
            ValueError: the shape is not (K, S, S) for the model's S.
        """
        self._check(slices_hu.shape)
        masks = np.empty(slices_hu.shape, dtype=np.bool_)
        if len(slices_hu) > 0:
            self._in_passes(slices_hu, intensity_ranges(slices_hu, self.preprocessing), self._host_masks, masks)
        return masks

    def masks_on_device(self, slices_hu: Tensor, ranges_hu: Tensor) -> Tensor:
        """Masks (B, S, S) bool of one pass, of slices that lie on the device and to stay there.

        Args:
            slices_hu: (B, S, S) int16 HU, B as `chunk` has it.
            ranges_hu: (B, 2) float32, the HU that become intensity 0 and 1.
        """
        return self._masks(self._logits(slices_hu, ranges_hu))

    def probabilities(
        self, slices_hu: npt.NDArray[np.int16], chosen: IntArray | None = None
    ) -> npt.NDArray[np.float32]:
        """Probability of tumour, as `segment` thresholds it.

        Args:
            slices_hu: (K, S, S) int16 HU, the whole volume: its range may decide the intensity.
            chosen: (n,) indices of the slices wanted; None for all.

        Returns:
            (K, S, S) float32, or (n, S, S) for n chosen slices.

        Raises:
            ReadingError: the model's values for some slice are not finite.
            ValueError: the shape is not (K, S, S) for the model's S.
        """
        self._check(slices_hu.shape)
        if len(slices_hu) == 0:
            return np.empty(slices_hu.shape, dtype=np.float32)
        ranges_hu = intensity_ranges(slices_hu, self.preprocessing)
        if chosen is None:
            return self._host_probabilities(slices_hu, ranges_hu)
        return self._host_probabilities(slices_hu[chosen], ranges_hu[chosen])

    def probabilities_of_intensity(
        self, images: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    ) -> npt.NDArray[np.float32]:
        """Probability of tumour in slices whose intensity was made before, as a prepared data set holds them.

        Args:
            images: (K, S, S) intensity in 1/255 or 1/65535, made with the model's own preprocessing.

        Returns:
            (K, S, S) float32.

        Raises:
            ReadingError: the model's values for some slice are not finite.
            ValueError: the shape is not (K, S, S) for the model's S, or the type is another.
        """
        self._check(images.shape)
        if images.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"intensities are {images.dtype}, expected uint8 or uint16")
        full = np.float32(np.iinfo(images.dtype).max)
        return self._host_probabilities(images, np.tile(np.array([0, full], dtype=np.float32), (len(images), 1)))

    def _check(self, shape: tuple[int, ...]) -> None:
        size = self.preprocessing.image_size
        if len(shape) != 3 or shape[1:] != (size, size):
            raise ValueError(f"slices have shape {shape}, expected (K, {size}, {size})")

    def _host_probabilities(self, slices: npt.NDArray[Any], ranges: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        probabilities = np.empty(slices.shape, dtype=np.float32)
        self._in_passes(slices, ranges, lambda logits: torch.sigmoid(logits).cpu().numpy(), probabilities)
        return probabilities

    def _host_masks(self, logits: Tensor) -> BoolArray:
        masks = self._masks(logits)
        if self.device.type == "cpu":
            return np.asarray(masks.numpy())
        return from_bits(to_bits(masks).cpu().numpy(), self.preprocessing.image_size)

    def _in_passes(
        self,
        slices: npt.NDArray[Any],
        ranges: npt.NDArray[np.float32],
        of_logits: Callable[[Tensor], npt.NDArray[Any]],
        results: npt.NDArray[Any],
    ) -> None:
        """Fill `results`, `chunk` slices at a time."""

        def put(start: int) -> None:
            own = slice(start, start + self.chunk)
            n_slices = len(slices[own])
            with torch.inference_mode():
                logits = self._logits(self._filled(slices[own]), self._filled(ranges[own]))
                total = logits[:n_slices].sum()
                results[own] = of_logits(logits)[:n_slices]
            if not math.isfinite(total):  # as it is where any of them is not
                detail = f"the model's values for slices {start} to {start + n_slices - 1} are not finite"
                raise ReadingError(Reason.MODEL_OUTPUT_NOT_FINITE, detail)

        for _ in self._lanes.map(put, range(0, len(slices), self.chunk)):
            pass  # what went wrong in a lane is raised here

    def _filled(self, part: npt.NDArray[Any]) -> Tensor:
        """A whole pass of it, on the device; to a GPU it is copied from pinned memory, beside what else goes on."""
        whole = np.zeros((self.chunk, *part.shape[1:]), dtype=part.dtype)
        whole[: len(part)] = part
        tensor = torch.from_numpy(whole)
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _logits(self, slices: Tensor, ranges: Tensor) -> Tensor:
        low, high = ranges.unbind(1)
        return self.engine.logits(normalise(slices, low, high))

    def _masks(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) >= self.preprocessing.threshold


def _cpu_lanes(num_threads: int | None) -> ThreadPoolExecutor:
    """A thread for each pass at a time, which has one core of its own."""
    of_the_process = torch.get_num_threads()
    n_lanes = min(of_the_process, usable_cores()) if num_threads is None else num_threads
    return ThreadPoolExecutor(n_lanes, "pass", _compute_in_one_thread, (of_the_process,))


def _gpu_lanes(device: torch.device) -> ThreadPoolExecutor:
    """Two, with a stream each: what one copies goes beside what the other computes.

    For all of this process, kernels that add in any order are turned off, and float32 is no longer rounded to TF32.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    return ThreadPoolExecutor(GPU_LANES, "pass", lambda: _own_stream(device))


def _own_stream(device: torch.device) -> None:
    torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def _compute_in_one_thread(of_the_process: int) -> None:
    """For the calling thread alone: torch reads the number of the process once in each thread, then keeps its own."""
    torch.get_num_threads()
    torch.set_num_threads(1)
    restoring = threading.Thread(target=torch.set_num_threads, args=(of_the_process,))
    restoring.start()
    restoring.join()


def choose_device(device: str) -> torch.device:
    """The torch device of an option: `auto`, `cpu`, `cuda`.

    Raises:
        UsageError: `cuda` on a machine without it.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device on this machine; use --device cpu or auto")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
