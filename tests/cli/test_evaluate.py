"""`vaeseg-batch evaluate` as a user calls it, with a tiny network of random weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from dataset_factories import volume, write_data_set

from vaeseg.cli import main
from vaeseg.config import ArchitectureConfig, PreprocessingConfig, ReadingConfig
from vaeseg.geometry.orientation import axial_order
from vaeseg.io.identity import content_token
from vaeseg.io.nifti import read_nifti
from vaeseg.models.checkpoint import load_checkpoint, save_checkpoint
from vaeseg.models.provenance import Provenance
from vaeseg.models.segmenter import Segmenter
from vaeseg.models.vae import VariationalAutoencoder

ARCHITECTURE = ArchitectureConfig(kind="spatial", image_size=64, base_width=2, latent_channels=2)
PREPROCESSING = PreprocessingConfig(image_size=64)
NOWHERE = Provenance(data_digest="", split_digest="")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """It calls about half of all pixels tumour."""
    torch.manual_seed(0)
    network = Segmenter(ARCHITECTURE).eval()
    last = network.decoder[-1]
    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.bias -= network(torch.rand(4, 1, 64, 64))[0].median()
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, network, PREPROCESSING, NOWHERE)
    return path


@pytest.fixture
def msd_dir(tmp_path: Path) -> Path:
    """Four crops of 96 x 96 with a tumour, one of them without its label's file."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for n in range(4):
        label = np.zeros((96, 96, 3), dtype=np.uint8)
        label[20 + n : 40, 20:50, 1:] = 1
        image = rng.integers(-900, 400, label.shape).astype(np.int16)
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([-0.7, -0.7, 2.5, 1.0])), root / folder / f"{n}.nii.gz")
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in range(4)]
    (root / "dataset.json").write_text(json.dumps({"training": entries}))
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def numbers(value: Any) -> Iterator[float]:
    """Every number within a JSON value."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield value


def test_precision_is_taken_and_told(msd_dir: Path) -> None:
    """An order goes all the way to the model that comes along, whose logits bfloat16 can tell apart."""
    answers = [
        run("--model", "phantom-v1", "--msd-dir", msd_dir, "--precision", name, "--json") for name in ("fp32", "bf16")
    ]
    assert [json.loads(answer.stdout)["computed_in"] for answer in answers] == ["float32", "bfloat16"]


def test_json_has_the_documented_keys_and_nothing_else_is_on_stdout(model: Path, msd_dir: Path) -> None:
    """One object; finite; every figure has an interval; what cannot be checked is said on stderr."""
    result = run("--model", model, "--msd-dir", msd_dir, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    figures = {
        "iou_label",
        "iou_label_or_prediction",
        "iou_label_median",
        "iou_pooled",
        "dice_label",
        "iou_subject",
        "iou_label_large",
        "volume_error_ml_median",
        "sensitivity",
        "false_positive_slices_share",
    }
    others = {"model", "digest", "threshold", "computed_in", "n_subjects", "n_slices", "n_label_slices", "confidence"}
    assert answer.keys() == figures | others | {"overlap_subjects", "duplicate_subjects", "warnings", "refused"}
    assert answer["confidence"].keys() == figures
    assert all(math.isfinite(number) for number in numbers(answer))
    assert (answer["model"], answer["n_subjects"], answer["n_slices"], answer["n_label_slices"]) == ("half", 4, 12, 8)
    assert 0 < answer["iou_label"] < 1
    assert "is unknown" in result.stderr


def test_the_same_seed_gives_the_same_answer(model: Path, msd_dir: Path) -> None:
    """Byte for byte; another seed moves no figure."""
    one, same, other = (run("--model", model, "--msd-dir", msd_dir, "--json", "--seed", n).stdout for n in (1, 1, 2))
    assert one == same
    first, second = json.loads(one), json.loads(other)
    assert {**first, "confidence": None} == {**second, "confidence": None}


def test_damaged_and_unlabelled_items_give_exit_code_3(model: Path, msd_dir: Path) -> None:
    """They are named on stderr and in the JSON, and the others are evaluated."""
    (msd_dir / "imagesTr/1.nii.gz").write_bytes(b"no image")
    listed = json.loads((msd_dir / "dataset.json").read_text())
    listed["training"][2] = {"image": listed["training"][2]["image"]}
    (msd_dir / "dataset.json").write_text(json.dumps(listed))
    result = run("--model", model, "--msd-dir", msd_dir, "--json")
    assert result.exit_code == 3
    answer = json.loads(result.stdout)
    assert answer["n_subjects"] == 2
    assert [(item["name"], item["reason"]) for item in answer["refused"]] == [("1", "damaged_file"), ("2", "no_label")]
    assert "left out 2: no_label" in result.stderr


def test_the_table_is_for_people(model: Path, msd_dir: Path) -> None:
    """Every figure has a line, and it says what kind of software this is."""
    result = run("--model", model, "--msd-dir", msd_dir)
    assert result.exit_code == 0
    assert "mean IoU, slices with a label" in result.stdout
    assert "4 subjects, 12 slices, 8 with a label, 0 left out" in result.stdout
    assert "not for clinical use" in result.stderr


def test_a_model_is_not_evaluated_on_whom_it_was_trained_on(model: Path, msd_dir: Path, tmp_path: Path) -> None:
    """Exit 2 with both numbers; with --allow-overlap they are in the JSON and on stderr."""
    trained_on = read_nifti(msd_dir / "imagesTr/2.nii.gz", ReadingConfig())
    seen = content_token(axial_order(trained_on.geometry).to_axial(trained_on.volume_hu))
    loaded = load_checkpoint(model)
    path = tmp_path / "seen.safetensors"
    save_checkpoint(path, loaded.network(), PREPROCESSING, replace(NOWHERE, seen_tokens=(seen, "another")))
    refused = run("--model", path, "--msd-dir", msd_dir, "--json")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "trained on 1 of these 4 subjects" in refused.stderr
    allowed = run("--model", path, "--msd-dir", msd_dir, "--json", "--allow-overlap")
    assert allowed.exit_code == 0
    assert json.loads(allowed.stdout)["overlap_subjects"] == 1
    assert "trained on 1 of these 4 subjects" in allowed.stderr
    assert "cannot be checked" not in allowed.stderr


def test_one_organ_is_chosen_by_value_or_by_name(model: Path, msd_dir: Path) -> None:
    """Label 1 is the tumour, label 2 is nowhere; a label that dataset.json does not list is a mistake."""
    listed = json.loads((msd_dir / "dataset.json").read_text())
    listed["labels"] = {"0": "background", "1": "tumour", "2": "liver"}
    (msd_dir / "dataset.json").write_text(json.dumps(listed))
    counts = [
        json.loads(run("--model", model, "--msd-dir", msd_dir, "--json", "--organ", organ).stdout)["n_label_slices"]
        for organ in ("1", "tumour", "liver")
    ]
    assert counts == [8, 8, 0]
    wrong = run("--model", model, "--msd-dir", msd_dir, "--organ", "kidney")
    assert (wrong.exit_code, "1 (tumour), 2 (liver)" in wrong.stderr) == (2, True)


def test_a_report_is_written_where_asked(model: Path, msd_dir: Path, tmp_path: Path) -> None:
    """Its JSON says what stdout says."""
    result = run("--model", model, "--msd-dir", msd_dir, "--json", "--report", tmp_path / "report")
    assert result.exit_code == 0, result.stderr
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    answer = json.loads(result.stdout)
    assert {key: written[key] for key in answer} == answer
    assert (tmp_path / "report" / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert str(tmp_path) not in (tmp_path / "report" / "report.html").read_text()


def test_a_report_that_cannot_be_written_is_said_before_anything_is_segmented(
    model: Path, msd_dir: Path, tmp_path: Path
) -> None:
    """Exit 1 at once: its directory would lie below a file."""
    (tmp_path / "file").touch()
    result = run("--model", model, "--msd-dir", msd_dir, "--json", "--report", tmp_path / "file" / "report")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the report cannot be written" in result.stderr


def test_a_prepared_data_set_is_evaluated_by_its_test_part(model: Path, tmp_path: Path) -> None:
    """One subject of ten; all with --split all."""
    volumes = [volume(f"s{n}", size=64) for n in range(10)]
    write_data_set(tmp_path / "data", volumes, preprocessing=PREPROCESSING)
    counts = [
        json.loads(run("--model", model, "--data", tmp_path / "data", "--json", *options).stdout)["n_subjects"]
        for options in ([], ["--split", "all"], ["--split", "train"])
    ]
    assert counts == [1, 10, 8]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nobody", "--msd-dir", "DATA"], "no model nobody"),
        (["--model", "MODEL"], "either --data or --msd-dir"),
        (["--model", "MODEL", "--msd-dir", "DATA", "--data", "x"], "either --data or --msd-dir"),
        (["--model", "MODEL", "--msd-dir", "DATA", "--split", "dev"], "--split does not go with --msd-dir"),
        (["--model", "MODEL", "--data", "x", "--organ", "2"], "--organ does not go with --data"),
        (["--model", "MODEL", "--data", "nowhere"], "nowhere"),
        (["--model", "MODEL", "--msd-dir", "nowhere"], "is this an MSD data set"),
    ],
)
def test_what_cannot_be_used_is_named(model: Path, msd_dir: Path, arguments: list[str], said: str) -> None:
    """Exit 2 with one line, nothing on stdout."""
    places = {"MODEL": str(model), "DATA": str(msd_dir)}
    result = run(*(places.get(argument, argument) for argument in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_stage_one_model_finds_no_tumours(tmp_path: Path, msd_dir: Path) -> None:
    """Exit 1: it has no decoder for them."""
    path = tmp_path / "vae.safetensors"
    save_checkpoint(path, VariationalAutoencoder(ARCHITECTURE), PREPROCESSING, NOWHERE)
    result = run("--model", path, "--msd-dir", msd_dir)
    assert result.exit_code == 1
    assert "stage-one" in result.stderr
