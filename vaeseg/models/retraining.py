"""The command that trains a model again, from its record: a preset, and what the record has otherwise."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from vaeseg.config import ArchitectureConfig, TrainingConfig, model_preset, training_preset

Stage = Literal["vae", "decoder"]
Preset = Literal["improved", "paper"]
PRESETS: tuple[Preset, ...] = ("improved", "paper")
OPTIONS = ("epochs", "split", "fold", "seed")
"""Settings that have an option of their own."""


def training_command(record: Mapping[str, Any]) -> str | None:
    """Options in the shortest form; where the data lie, and the name of a stage-one model, are left to the reader.

    A setting that the record lacks came later than it: it is as it is by default, which is what there was before.

    Args:
        record: of `registry.show_model`.

    Returns:
        One line; None where the record does not hold the settings of a training.
    """
    if not record["training"]:
        return None
    stage: Stage = "decoder" if record["kind"] == "segmenter" else "vae"
    written = [_from_preset(stage, preset, record) for preset in PRESETS]
    start = f"vaeseg-batch train {stage} --data DATA --name NAME"
    parent = " --vae STAGE_ONE" if record["parent_digest"] and stage == "decoder" else ""
    workers = f" --workers {record['workers']}" if (record.get("workers") or 1) > 1 else ""
    half = " --half" if record["precision"] == "half" else ""
    return start + parent + min(written, key=len) + workers + half


def _from_preset(
    stage: Literal["vae", "decoder"], preset: Literal["improved", "paper"], record: Mapping[str, Any]
) -> str:
    changed = _changed(asdict(training_preset(stage, preset)), asdict(TrainingConfig()) | record["training"])
    options = [f"--{name} {_as_text(changed.pop(name))}" for name in OPTIONS if name in changed]
    if not record["parent_digest"]:
        changed |= _changed(asdict(model_preset(preset)), asdict(ArchitectureConfig()) | record["architecture"])
        changed.pop("image_size", None)  # that of the data
    settings = [f"--set {name}={_as_text(value)}" for name, value in changed.items()]
    return " ".join(["", f"--preset {preset}", *options, *settings])


def _changed(preset: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    return {name: recorded[name] for name in preset if recorded[name] != preset[name]}


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else shlex.quote(str(value))
