"""Trains recipes for the same number of minutes and measures them: the tables of docs/accuracy.md.

    vaeseg-batch prepare --msd-dir DIR --image-size 96 --intensity slice --out OUT/slice
    vaeseg-batch prepare --msd-dir DIR --image-size 96 --intensity volume --out OUT/volume
    vaeseg-batch prepare --msd-dir DIR --image-size 96 --intensity window:0:255 --out OUT/window_0_255
    python benchmarks/accuracy/compare.py --out OUT --minutes 10 --seeds 0,1,2 [--only "improved,U-Net"] [--test]

Each training gets as many epochs as fit into its minutes by the speed of its first steps, and at least one. Minutes are
of processor time, so that what else the machine does costs little; run one process a core, with `OMP_NUM_THREADS=1`.
What has been measured is not trained again, so that the command can be interrupted: OUT/results.jsonl has a line a
training. Figures are means over slices that hold a label, on dev; --test adds the test part, to be looked at once, at
the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from recipes import RECIPES, Recipe, UNet, n_parameters

from vaeseg.cli.training_stages import configs
from vaeseg.config import ArchitectureConfig, TrainingConfig
from vaeseg.io.dataset import DataSet, open_data_set
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder, latent_shape
from vaeseg.training.evaluate import evaluate
from vaeseg.training.loop import Keeping, TrainingData, TrainingInterruptedError, train
from vaeseg.training.observing import Observer
from vaeseg.training.sources import ResidentSource

TIMED_SLICES = 1600
"""Trained on to learn the speed."""
VAE_SHARE = 0.3
"""Of a recipe's minutes, what its stage one gets."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", default=",".join(RECIPES))
    parser.add_argument("--test", action="store_true")
    arguments = parser.parse_args()
    for seed in map(int, arguments.seeds.split(",")):
        for name in arguments.only.split(","):
            _measure_once(arguments.out, name, seed, arguments.minutes, arguments.test)
    print(table(_results(arguments.out)))


def measure(recipe: Recipe, seed: int, minutes: float, data: DataSet, with_test: bool, scratch: Path) -> dict[str, Any]:
    """Train one recipe with one seed."""
    started = time.process_time()
    vae, share = None, 1.0
    if recipe.vae is not None:
        settings, network = configs("vae", "improved", recipe.vae, _size(data), None)
        vae = VariationalAutoencoder(network)
        _train(vae, replace(settings, seed=seed), data, minutes * VAE_SHARE, scratch)
        share -= VAE_SHARE
    training, architecture = configs(
        "decoder", "improved", recipe.decoder, _size(data), vae.architecture if vae is not None else None
    )
    model = _network(recipe, architecture, vae, seed)
    training = _train(model, replace(training, seed=seed), data, minutes * share, scratch)
    split, source = data.splits["subject"][0], _source(data)
    parts = {"dev": split.dev, "test": split.test} if with_test else {"dev": split.dev}
    figures = {part: evaluate(model, source, data.index, which, training, 0.5) for part, which in parts.items()}
    return {
        **{part: found["iou_label"] for part, found in figures.items()},
        "minutes": round((time.process_time() - started) / 60, 2),
        "slices": training.epochs * len(split.train),
        "parameters": n_parameters(model),
        "latent_numbers": 0 if recipe.anchor else _latent_numbers(architecture),
        "nats": _nats(figures["dev"]["kl"], data),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, a row a recipe: mean and range over seeds."""
    rows = [
        "| recipe | dev iou_label | seeds | slices | minutes | parameters | latent | nats |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(result["recipe"] for result in results):
        own = [result for result in results if result["recipe"] == name]
        dev = [result["dev"] for result in own]
        spread = f" ({min(dev):.3f} to {max(dev):.3f})" if len(dev) > 1 else ""
        slices, minutes, nats = (statistics.mean(r[key] for r in own) for key in ("slices", "minutes", "nats"))
        size = f"{own[0]['parameters']:,} | {own[0]['latent_numbers']:,}"
        figure = f"{statistics.mean(dev):.3f}{spread} | {len(own)}"
        rows.append(f"| {name} | {figure} | {slices:,.0f} | {minutes:.1f} | {size} | {nats:,.0f} |")
    return "\n".join(rows)


def _measure_once(out: Path, name: str, seed: int, minutes: float, with_test: bool) -> None:
    key = {"recipe": name, "seed": seed, "asked_minutes": minutes}
    if any(key.items() <= result.items() for result in _results(out)):
        return
    recipe = RECIPES[name]
    data = open_data_set(str(out / recipe.intensity.replace(":", "_")))
    scratch = out / "scratch"
    scratch.mkdir(exist_ok=True)
    result = {**key, **measure(recipe, seed, minutes, data, with_test, scratch)}
    print(json.dumps(result), flush=True)
    with (out / "results.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")


def _results(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _network(
    recipe: Recipe, architecture: ArchitectureConfig, vae: VariationalAutoencoder | None, seed: int
) -> Segmenter:
    torch.manual_seed(seed)
    model = UNet(recipe.anchor) if recipe.anchor else Segmenter(architecture)
    if vae is not None:
        model.start_from(vae)
    return model


def _train(
    model: VariationalAutoencoder, config: TrainingConfig, data: DataSet, minutes: float, scratch: Path
) -> TrainingConfig:
    """Train in place; returns the configuration with the epochs that fitted."""
    seconds_a_slice = _seconds_a_slice(model, config, data, scratch)
    n_train = len(data.splits["subject"][0].train)
    config = replace(config, epochs=max(1, round(60 * minutes / (seconds_a_slice * n_train))))
    train(model, _data(data), config, Keeping(directory=scratch))
    return config


def _seconds_a_slice(model: VariationalAutoencoder, config: TrainingConfig, data: DataSet, scratch: Path) -> float:
    """Speed of the first steps; the weights are put back."""
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    moments: list[tuple[int, float]] = []

    def look(done: int, total: int, losses: Mapping[str, float]) -> None:
        moments.append((done, time.process_time()))

    try:
        stop = Observer(on_step=look, should_stop=lambda: moments[-1][0] >= TIMED_SLICES)
        train(model, _data(data), config, Keeping(directory=scratch), observer=stop)
    except TrainingInterruptedError:
        pass
    model.load_state_dict(before)
    (first, began), (last, ended) = moments[0], moments[-1]
    return (ended - began) / (last - first)


def _data(data: DataSet) -> TrainingData:
    return TrainingData(
        source=_source(data), index=data.index, row_groups=data.row_group_of_slice, split=data.splits["subject"][0]
    )


def _source(data: DataSet) -> ResidentSource:
    return ResidentSource(data.read(), torch.device("cpu"))


def _size(data: DataSet) -> int:
    return data.manifest.preprocessing.image_size


def _latent_numbers(architecture: ArchitectureConfig) -> int:
    _, channels, height, width = latent_shape(architecture, 1, architecture.image_size)
    return channels * height * width


def _nats(kl_per_pixel: float | None, data: DataSet) -> float:
    return round((kl_per_pixel or 0.0) * _size(data) ** 2, 1)


if __name__ == "__main__":
    main()
