"""Engine: slices on the model grid to masks, in one process, for the paper's network and for `phantom-v1`.

    python benchmarks/bench.py --only engine

Peers, all from the same int16 HU to the same masks: the paper's loop (one slice at a time, eager), batches of 32, ONNX
Runtime, and OpenVINO with its own choice of streams, the last two on the graph that `vaeseg-batch model export` writes.
Beside them the processor's own limits, measured in the same run: matrix products in the numbers that ours computes in
(bfloat16 where the processor has it), and copying.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from side_by_side import OURS, Result, in_turns, rate_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vaeseg.config import ArchitectureConfig, PhantomConfig, PreprocessingConfig
from vaeseg.evaluation.overlap import dice
from vaeseg.geometry.resample import to_model_grid
from vaeseg.inference.predictor import Predictor
from vaeseg.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vaeseg.models.files import resolve_model
from vaeseg.models.onnx import to_onnx
from vaeseg.models.provenance import Provenance
from vaeseg.models.segmenter import Segmenter
from vaeseg.phantom.patient import generate_patient
from vaeseg.records import BoolArray

PHANTOM = PhantomConfig(n_patients=1, seed=3, image_size=256, z_extent_mm=192.0, slice_spacing_mm=2.0)
"""96 slices."""
MAX_DIFFERING_SHARE = 1e-3
"""Of pixels, between the paper's loop and any other path."""
LEAST_DICE = 0.5
"""So that an empty mask is not taken for one of few differing pixels. bfloat16 has 0.8 with the random network."""
TUMOUR_SHARE = 5e-4
"""Of pixels, that the paper's network with random weights calls tumour. In bfloat16 two in ten thousand change sides at
this threshold, and three in a thousand where it leaves a hundredth: they lie close together without training."""
GRAPH_BATCH = 4
MATRIX_SIDE = 2048
COPIED_BYTES = 2**28

Slices = npt.NDArray[np.int16]
Segments = Callable[[Slices], BoolArray]


def benchmark(scratch: Path, rounds: int) -> list[Result]:
    """Both networks, one result each."""
    patient = generate_patient(PHANTOM.seed, 0, PHANTOM)
    slices = to_model_grid(patient.volume_hu, patient.geometry.spacing_mm, 256)
    models = {"paper": load_checkpoint(_paper_network(scratch, slices)), "phantom-v1": load_checkpoint(_shipped())}
    return [_compared(name, checkpoint, slices, rounds) for name, checkpoint in models.items()]


def _compared(name: str, checkpoint: Checkpoint, slices: Slices, rounds: int) -> Result:
    paths, missing = _paths(checkpoint)
    masks = {path: segments(slices) for path, segments in paths.items()}
    reference = masks["loop of single slices"]
    differing = {path: float((mask != reference).mean()) for path, mask in masks.items()}
    assert reference.any(), f"{name} finds nothing: there is nothing to compare"
    assert max(differing.values()) < MAX_DIFFERING_SHARE, f"{name}: masks differ: {differing}"
    overlap = min(dice(mask, reference) for mask in masks.values())
    assert overlap > LEAST_DICE, f"{name}: masks overlap by {overlap:.2f} only"
    figures = in_turns({path: rate_of(lambda run=run: run(slices), len(slices)) for path, run in paths.items()}, rounds)
    gflop = _gflop_a_slice(checkpoint)
    computes_in = Predictor(checkpoint, "cpu").engine.dtype
    peak, copied = _matrix_gflops(computes_in), _copied_gb_a_second()
    return Result(
        benchmark=f"engine, {name}",
        unit="slices/s",
        checked=f"masks of {len(slices)} slices; the loop's differ in {max(differing.values()):.1e} of pixels at most "
        f"(Dice {overlap:.3f} at least)",
        figures=figures,
        notes={
            "computes_in": str(computes_in),
            "gflop_a_slice": round(gflop, 3),
            "matrix_gflop_a_second": round(peak, 1),
            "copied_gb_a_second": round(copied, 1),
            "share_of_matrix_peak": round(figures[0].median * gflop / peak, 3),
            "threads": torch.get_num_threads(),
            "not_installed": missing,
        },
    )


def _paths(checkpoint: Checkpoint) -> tuple[Mapping[str, Segments], list[str]]:
    """By name, ours first; and the packages of those that are missing."""
    network, threshold = checkpoint.network(), checkpoint.preprocessing.threshold
    paths: dict[str, Segments] = {
        OURS: Predictor(checkpoint, "cpu").segment,
        "loop of single slices": lambda slices: _eager(network, checkpoint, slices, 1),
        "eager, batches of 32": lambda slices: _eager(network, checkpoint, slices, 32),
    }
    graph, missing = to_onnx("m", checkpoint).data, []
    for package, build in (("onnxruntime", _onnx_runtime), ("openvino", _openvino)):
        try:
            run = build(importlib.import_module(package), graph)
        except ModuleNotFoundError:
            missing.append(package)
            continue
        paths[package] = lambda slices, run=run: run(_intensity(slices, checkpoint)) >= threshold
    return paths, missing


def _eager(network: nn.Module, checkpoint: Checkpoint, slices: Slices, batch: int) -> BoolArray:
    masks = np.empty(slices.shape, dtype=np.bool_)
    with torch.inference_mode():
        for start in range(0, len(slices), batch):
            images = torch.from_numpy(_intensity(slices[start : start + batch], checkpoint))
            logits, _ = network(images)
            masks[start : start + batch] = (torch.sigmoid(logits) >= checkpoint.preprocessing.threshold)[:, 0].numpy()
    return masks


def _onnx_runtime(runtime: ModuleType, graph: bytes) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.concatenate([session.run(None, {name: part})[0][:, 0] for part in _in_batches(images)])

    return run


def _openvino(openvino: ModuleType, graph: bytes) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    core = openvino.Core()
    hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(core.read_model(graph), "CPU", hints)

    def run(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found = np.empty((len(images), *images.shape[2:]), dtype=np.float32)
        queue = openvino.AsyncInferQueue(compiled)
        queue.set_callback(lambda request, start: _keep(found, start, request.get_output_tensor().data))
        for number, part in enumerate(_in_batches(images)):
            queue.start_async({0: part}, number * GRAPH_BATCH)
        queue.wait_all()
        return found

    return run


def _keep(found: npt.NDArray[np.float32], start: int, part: npt.NDArray[np.float32]) -> None:
    found[start : start + len(part)] = part[:, 0]


def _in_batches(images: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    return (images[start : start + GRAPH_BATCH] for start in range(0, len(images), GRAPH_BATCH))


def _intensity(slices: Slices, checkpoint: Checkpoint) -> npt.NDArray[np.float32]:
    """(K, 1, S, S) in [0, 1], by the fixed window that both models have."""
    return _windowed(slices, checkpoint.preprocessing)


def _windowed(slices: Slices, preprocessing: PreprocessingConfig) -> npt.NDArray[np.float32]:
    low, high = preprocessing.window_low_hu, preprocessing.window_high_hu
    return np.clip((slices.astype(np.float32) - low) / (high - low), 0, 1)[:, None]


def _paper_network(scratch: Path, slices: Slices) -> Path:
    """With random weights, the statistics that they have on these slices, as a trained network would, and a threshold
    that leaves as few pixels as tumours take."""
    path = scratch / "paper.safetensors"
    torch.manual_seed(0)
    network = Segmenter(ArchitectureConfig(kind="paper", image_size=256))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over what it is shown, without what it began with
    window = PreprocessingConfig(image_size=256)
    with torch.no_grad():
        network(torch.from_numpy(_windowed(slices[::8], window)))
    provenance = Provenance(data_digest="0" * 64, split_digest="0" * 64)
    for threshold in (0.5, None):
        if threshold is None:
            found = Predictor(load_checkpoint(path), "cpu", precision="fp32").probabilities(slices[::8])
            threshold = float(np.quantile(found, 1 - TUMOUR_SHARE))
        save_checkpoint(path, network, replace(window, threshold=threshold), provenance)
    return path


def _shipped() -> Path:
    path = resolve_model("phantom-v1")
    assert isinstance(path, Path)
    return path


def _gflop_a_slice(checkpoint: Checkpoint) -> float:
    """Of the way from image to mask, two operations for each multiply and add."""
    network = checkpoint.network()
    assert isinstance(network, Segmenter)
    size = checkpoint.architecture.image_size
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network.probability(torch.zeros(1, 1, size, size))
    return counter.get_total_flops() / 1e9


def _matrix_gflops(dtype: torch.dtype) -> float:
    """Best of ten products."""
    a, b = (torch.rand(MATRIX_SIDE, MATRIX_SIDE).to(dtype) for _ in range(2))
    return 2 * MATRIX_SIDE**3 / _least_seconds(lambda: a @ b) / 1e9


def _copied_gb_a_second() -> float:
    """Bytes read and written, best of ten copies."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / _least_seconds(lambda: target.copy_(source)) / 1e9


def _least_seconds(work: Callable[[], object]) -> float:
    least = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - started)
    return least
