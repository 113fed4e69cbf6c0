from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest

from vaeseg.cli.training_stages import Preset, Stage, configs, settings_of
from vaeseg.config import ArchitectureConfig, TrainingConfig
from vaeseg.models.retraining import training_command


def record(
    stage: Stage, training: TrainingConfig, architecture: ArchitectureConfig, **changes: object
) -> dict[str, Any]:
    return {
        "kind": "segmenter" if stage == "decoder" else "vae",
        "training": asdict(training),
        "architecture": asdict(architecture),
        "parent_digest": None,
        "precision": "float32",
        **changes,
    }


def parsed(command: str, stage: Stage, given: ArchitectureConfig | None) -> tuple[TrainingConfig, ArchitectureConfig]:
    """What `vaeseg-batch train` makes of a command, for data of 64 x 64 pixels."""
    words = shlex.split(command)
    assert words[:3] == ["vaeseg-batch", "train", stage]
    pairs = list(pairwise(words))
    preset: Preset = dict(pairs)["--preset"]  # type: ignore[assignment]
    settings = settings_of(tuple(value for name, value in pairs if name == "--set"))
    options = {name: dict(pairs)[f"--{name}"] for name in ("epochs", "split", "fold", "seed") if f"--{name}" in words}
    return configs(stage, preset, {**settings, **options}, 64, given)


@pytest.mark.parametrize("stage", ["vae", "decoder"])
@pytest.mark.parametrize("preset", ["paper", "improved"])
def test_the_command_leads_to_the_same_training(stage: Stage, preset: Preset) -> None:
    """Whatever was changed of either preset, `train` parses the command into the configurations of the record."""
    training, architecture = configs(stage, preset, {}, 64, None)
    training = replace(training, epochs=7, seed=3, split="slice", fold=2, noise=0.01, deterministic=True)
    architecture = replace(architecture, base_width=8)
    command = training_command(record(stage, training, architecture))
    assert command is not None
    assert f"--preset {preset}" in command
    assert parsed(command, stage, None) == (training, architecture)


def test_a_setting_that_is_younger_than_the_record_was_not_used() -> None:
    """A record of before there were warps and finer networks: not those of today's preset."""
    training, architecture = configs(
        "decoder", "improved", {"warp_share": "0", "noise": "0", "patch_size": "1"}, 64, None
    )
    older = record("decoder", training, architecture)
    for section, name in (("training", "warp_share"), ("training", "noise"), ("architecture", "patch_size")):
        del older[section][name]
    command = training_command(older)
    assert command is not None
    assert parsed(command, "decoder", None) == (training, architecture)


def test_a_preset_as_it_is_needs_no_settings() -> None:
    """The shortest form; half precision and a stage-one model are options."""
    training, architecture = configs("decoder", "improved", {}, 64, None)
    changes = {"parent_digest": "d", "precision": "half"}
    assert training_command(record("decoder", training, architecture, **changes)) == (
        "vaeseg-batch train decoder --data DATA --name NAME --vae STAGE_ONE --preset improved --half"
    )


@pytest.mark.parametrize(("workers", "option"), [(2, " --workers 2"), (1, ""), (None, "")])
def test_several_workers_are_an_option(workers: int | None, option: str) -> None:
    """Two train as one does with twice the batch; an older record does not say how many there were."""
    training, architecture = configs("vae", "improved", {}, 64, None)
    found = training_command(record("vae", training, architecture, workers=workers))
    assert found == f"vaeseg-batch train vae --data DATA --name NAME --preset improved{option}"


def test_the_network_of_a_stage_one_model_is_not_set_again() -> None:
    """`train` refuses settings of the network beside --vae."""
    training, architecture = configs("decoder", "paper", {"base_width": "8"}, 64, None)
    command = training_command(record("decoder", training, architecture, parent_digest="d"))
    assert command is not None
    assert parsed(command, "decoder", architecture) == (training, architecture)


def test_what_a_file_says_cannot_become_a_command_of_its_own() -> None:
    """A card is copied into a shell."""
    training, architecture = configs("decoder", "improved", {}, 64, None)
    hostile = record("decoder", training, architecture)
    hostile["training"]["augmentation"] = "x; rm -rf ~"
    hostile["training"]["seed"] = "$(id)"
    command = training_command(hostile)
    assert command is not None
    assert {"augmentation=x; rm -rf ~", "$(id)"} <= set(shlex.split(command))


def test_without_settings_there_is_no_command() -> None:
    """An older file records none."""
    training, architecture = configs("vae", "paper", {}, 64, None)
    assert training_command(record("vae", training, architecture) | {"training": None}) is None
