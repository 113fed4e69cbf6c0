"""What a GPU does with a slice: the engine's and the training's slices a second; `make bench-gpu`.

    python benchmarks/bench_gpu.py [--out benchmarks/results]

Needs a CUDA device, and neither network nor Ray but for its last part, which is left out where Ray is not installed;
made to end within 8 minutes on an H100, which nobody has seen yet. Writes the same JSON as bench.py, to DATE-gpu.json.
There are no peers.

- engine, from the device: int16 slices that lie there already, to masks that stay there, by the predictor's network;
- engine, from the host: `Predictor.segment`, with both ways over the bus;
- the pipeline's stage: whole series as an actor does them that is fed fast enough, beside the engine from the device,
  which tells for which share of that time the device computes;
- training of the paper's autoencoder and decoder, with all slices on the device;
- training from memory and streamed through Ray Data (`bench_streaming`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import bench_streaming
import numpy as np
import torch
from bench_training import CASES, Case, own_rate, phantom_slices
from side_by_side import OURS, Result, in_turns, rate_of, table, where_and_with_what
from stages import stage_config
from torch import Tensor

from vaeseg.config import ArchitectureConfig, PhantomConfig, PreprocessingConfig
from vaeseg.distributed.rows import SeriesRow, unpack_mask
from vaeseg.distributed.segmenting import Segment
from vaeseg.inference.predictor import Predictor
from vaeseg.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vaeseg.models.files import resolve_model
from vaeseg.models.preprocessing import intensity_ranges
from vaeseg.models.provenance import Provenance
from vaeseg.models.segmenter import Segmenter
from vaeseg.phantom.patient import generate_patient

PAPER_SLICES = 14_126
PAPER_EPOCHS = {"vae": 70, "decoder": 50}
BATCH = 256
"""Slices in one pass of the engine."""

NOWHERE = Provenance(data_digest="", split_digest="")

Device = Literal["cpu", "cuda"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("bench_gpu: torch sees no CUDA device on this machine; nothing was measured", file=sys.stderr)
        raise SystemExit(2)
    measured = where_and_with_what()
    results = measure_all(arguments.device, 1 if arguments.quick else arguments.rounds, arguments.quick)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{str(measured['measured_at'])[:10]}-gpu.json"
    path.write_text(json.dumps({**measured, "results": [result.as_json() for result in results]}, indent=1) + "\n")
    print(f"{table(results)}\n\nwritten to {path}")


def measure_all(device: Device, rounds: int, quick: bool) -> list[Result]:
    with TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        models = {"paper's network": paper_checkpoint(scratch, 64 if quick else 256)}
        models["phantom-v1"] = load_checkpoint(resolve_model("phantom-v1"))
        cases = [gpu_case(case, quick) for case in CASES if case.preset == "paper"]
        # training first: the engine turns kernels off for the whole process that training may use
        training = [training_of(case, scratch, device, rounds, quick) for case in cases]
        if find_spec("ray") is not None and not quick:
            training += bench_streaming.benchmark(scratch, 1, device)
        engines = [engine_of(name, model, device, rounds, quick) for name, model in models.items()]
        return [*engines, stage_of("phantom-v1", device, rounds, quick), *training]


def engine_of(name: str, checkpoint: Checkpoint, device: Device, rounds: int, quick: bool) -> Result:
    """Both paths of the engine on the same slices."""
    n_slices = 8 if quick else 8 * BATCH
    predictor = Predictor(checkpoint, device=device, batch_size=4 if quick else BATCH)
    size = checkpoint.preprocessing.image_size
    volume_hu = np.resize(_volume_hu(size, 8), (n_slices, size, size))
    resident = torch.from_numpy(volume_hu).to(predictor.device)
    bounds_hu = torch.from_numpy(intensity_ranges(volume_hu, checkpoint.preprocessing)).to(predictor.device)
    from_device = partial(segment_resident, predictor, resident, bounds_hu)
    from_host = partial(predictor.segment, volume_hu)
    differing = float((from_host() != from_device().cpu().numpy()).mean())
    assert differing < 1e-3, f"{name}: {differing:.2%} of the pixels differ between device and host"
    return Result(
        benchmark=f"engine on {device}, {name}",
        unit="slices/s",
        checked=f"masks from device and host: {differing:.1g} of {volume_hu.size:,} pixels differ",
        figures=in_turns(
            {"from the device": _timed(from_device, n_slices), "from the host": _timed(from_host, n_slices)}, rounds
        ),
        notes={"slices": n_slices, "batch": predictor.chunk, "side": size, "computes in": str(predictor.engine.dtype)},
    )


def stage_of(model: str, device: Device, rounds: int, quick: bool) -> Result:
    """Series on the model grid to what measuring needs of them, and the device's part of it alone."""
    n_slices, batch = (8, 4) if quick else (8 * BATCH, BATCH)
    segment = Segment(replace(stage_config(model, Path()), device=device, batch_size=batch), cores=os.cpu_count)
    predictor = segment.predictor
    size = predictor.preprocessing.image_size
    volume_hu = np.resize(_volume_hu(size, 8), (n_slices, size, size))
    row = SeriesRow(work_item=0, series_instance_uid="", failure="", slices=volume_hu.tobytes())  # type: ignore[typeddict-item]  # all that it reads
    resident = torch.from_numpy(volume_hu).to(predictor.device)
    bounds_hu = torch.from_numpy(intensity_ranges(volume_hu, predictor.preprocessing)).to(predictor.device)
    masks = unpack_mask(segment(row)["mask_bits"], n_slices, size)
    differing = float((masks != segment_resident(predictor, resident, bounds_hu).cpu().numpy()).mean())
    assert differing < 1e-3, f"{differing:.2%} of the pixels differ between the stage and the engine"
    whole, engine = in_turns(
        {
            OURS: _timed(partial(segment, row), n_slices),
            "engine alone, from the device": _timed(
                partial(segment_resident, predictor, resident, bounds_hu), n_slices
            ),
        },
        rounds,
    )
    return Result(
        benchmark=f"stage of the pipeline on {device}, {model}",
        unit="slices/s",
        checked=f"masks of the stage and of the engine: {differing:.1g} of the pixels differ",
        is_of_parts=True,
        figures=(whole, engine),
        notes={"slices": n_slices, "share of its time for which the device computes": whole.median / engine.median},
    )


def segment_resident(predictor: Predictor, slices_hu: Tensor, bounds_hu: Tensor) -> Tensor:
    """Masks (K, S, S) bool on the device, of int16 HU and (K, 2) HU for intensity 0 and 1 that lie there."""
    masks = torch.empty(slices_hu.shape, dtype=torch.bool, device=slices_hu.device)
    with torch.inference_mode():
        for first in range(0, len(slices_hu), predictor.chunk):
            part = slice(first, first + predictor.chunk)
            masks[part] = predictor.masks_on_device(slices_hu[part], bounds_hu[part])
    return masks


def training_of(case: Case, scratch: Path, device: Device, rounds: int, quick: bool) -> Result:
    """One training with all its slices on the device."""
    slices = phantom_slices(scratch, case.size, 32 if quick else 96)
    figures = in_turns({OURS: partial(own_rate, case, slices, torch.device(device))}, rounds)
    epochs = PAPER_EPOCHS[case.stage]
    minutes = epochs * PAPER_SLICES / figures[0].median / 60
    return Result(
        benchmark=f"{case.name}, on {device}",
        unit="slices/s",
        checked="nothing here: bench_training compares a step with a peer's, on whatever device it runs",
        figures=figures,
        notes={f"minutes of {epochs} epochs over {PAPER_SLICES:,} slices, extrapolated": round(minutes, 1)},
    )


def gpu_case(case: Case, quick: bool) -> Case:
    """A GPU needs more steps to be timed by; quick is for tests."""
    if quick:
        return replace(case, size=64, batch=4, steps=1, epoch_steps=1)
    return replace(case, steps=120, epoch_steps=60)


def paper_checkpoint(scratch: Path, size: int) -> Checkpoint:
    """The paper's segmenter with first weights: speed does not depend on what they are."""
    torch.manual_seed(0)
    path = scratch / "paper.safetensors"
    save_checkpoint(path, Segmenter(ArchitectureConfig(image_size=size)), PreprocessingConfig(image_size=size), NOWHERE)
    return load_checkpoint(path)


def _timed(work: Callable[[], Any], n_slices: int) -> Callable[[], float]:
    """Until the device has done what it was given."""

    def whole() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return rate_of(whole, n_slices)


def _volume_hu(size: int, n_slices: int) -> Any:
    phantom = PhantomConfig(image_size=size, z_extent_mm=float(n_slices), slice_spacing_mm=1.0)
    return generate_patient(5, 0, phantom).volume_hu[:n_slices]


if __name__ == "__main__":
    main()
