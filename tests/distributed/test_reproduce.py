"""The paper from raw data to its table, on phantoms: not how good it is, but that it is what it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from vaeseg.cli import main
from vaeseg.config import PhantomConfig
from vaeseg.inference.predictor import Predictor
from vaeseg.io.dataset import open_data_set
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.phantom.msd_writer import write_msd_dataset

PHANTOM = PhantomConfig(
    n_patients=5, seed=3, image_size=64, z_extent_mm=24.0, slice_spacing_mm=6.0, tumour_free_share=0.0
)
PARTS = ("train", "dev", "test")
OPTIONS = ["--quick", "--set", "base_width=2", "--set", "latent_channels=2", "--set", "epochs=1", "--device", "cpu"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`msd/`, one volume of which is damaged, and `store/` after a whole reproduction, with what it printed.

    Lungs are labelled too, and count as tumours do.
    """
    root = tmp_path_factory.mktemp("reproduce")
    write_msd_dataset(root / "msd", PHANTOM, organ_labels=True)
    image = sorted((root / "msd" / "imagesTr").iterdir())[0]
    image.write_bytes(image.read_bytes()[:200])
    done = in_a_process(root)
    (root / "printed.json").write_text(done.stdout)
    (root / "told.txt").write_text(done.stderr)
    return root


def in_a_process(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One that may start a Ray."""
    command = [sys.executable, "-c", "from vaeseg.cli import main; main()", "reproduce", *OPTIONS, "--json"]
    done = subprocess.run(
        [*command, "--msd-dir", root / "msd", "--store", root / "store", *arguments],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    return done


def again(root: Path, *arguments: str) -> Result:
    options = ["--msd-dir", str(root / "msd"), "--store", str(root / "store"), *OPTIONS]
    return CliRunner().invoke(main, ["reproduce", *options, *arguments])


def printed(root: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((root / "printed.json").read_text())
    return result


def test_everything_is_said(root: Path) -> None:
    """Size, epochs and quickness, who was left out, the paper's figures, and ours for both kinds of split."""
    result = printed(root)
    assert (result["quick"], result["image_size"], result["epochs"]) == (True, 64, {"vae": 1, "decoder": 1})
    assert result["n_subjects"] == 4
    assert [item["reason"] for item in result["refused"]] == ["damaged_file"]
    assert result["paper"] == {"split": "slice", "train": 0.6295, "dev": 0.6368, "test": 0.615}
    assert list(result["splits"]) == ["slice", "subject"]
    assert "left out" in (root / "told.txt").read_text()
    assert "Traceback" not in (root / "told.txt").read_text()


def test_every_key_is_documented(root: Path) -> None:
    """docs/training.md names what `--json` prints."""
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    section = text.split("## The paper in one command")[1].split("\n## ")[0]
    result = printed(root)
    keys = {*result, *result["splits"]["slice"]}
    assert {key for key in keys if f"`{key}`" not in section} == set()


def test_models_are_the_papers(root: Path) -> None:
    """Both stages with its preset on its kind of data, each on its own split, the decoder on the frozen encoder."""
    result = printed(root)
    data = open_data_set(result["data"])
    assert data.manifest.preprocessing.intensity == "minmax"
    for kind, of_split in result["splits"].items():
        vae, decoder = (load_checkpoint(Path(of_split[stage])) for stage in ("vae", "decoder"))
        assert (vae.architecture.kind, decoder.metadata.parent_digest) == ("paper", vae.digest)
        first, second = (json.loads(checkpoint.metadata.training) for checkpoint in (vae, decoder))
        assert (first["learning_rate"], first["kl_weight"], first["split"]) == (4e-3, 0.1, kind)
        assert (second["learning_rate"], second["bce_reduction"], second["freeze_encoder"]) == (5e-3, "sum", True)
        assert {first["batch_size"], second["batch_size"]} == {32}
        assert decoder.metadata.split_digest == data.splits[kind][0].digest
        assert all(torch.equal(decoder.state[name], vae.state[name]) for name in vae.state if "encoder" in name)


def test_table_is_the_mean_over_slices_with_a_label_or_a_prediction(root: Path) -> None:
    """Recomputed from masks, part by part, for both kinds of split."""
    result = printed(root)
    data = open_data_set(result["data"])
    for kind, of_split in result["splits"].items():
        predictor = Predictor(load_checkpoint(Path(of_split["decoder"])), "cpu", precision="fp32")
        split = data.splits[kind][0]
        for part in PARTS:
            slices = data.read(getattr(split, part))
            labels = slices.labels(np.arange(len(slices)))
            masks = predictor.probabilities_of_intensity(slices.images) >= 0.5
            union = (masks | labels).sum((1, 2))
            ious = (masks & labels).sum((1, 2))[union > 0] / union[union > 0]
            found = of_split[part]
            assert found == (pytest.approx(ious.mean()) if len(ious) else None)
            assert of_split["evaluations"][part]["n_slices"] == len(slices)


def test_a_second_run_does_nothing_and_says_the_same(root: Path) -> None:
    """No stage is done again; the table shows the figures of the first run."""
    done = again(root)
    assert done.exit_code == 3, done.output
    assert done.stderr.count("is there already") == 5
    assert "epoch" not in done.stderr
    assert "evaluating" not in done.stderr
    result = printed(root)
    row = next(line for line in done.stdout.splitlines() if line.startswith("test"))
    ours = [result["splits"][kind]["test"] for kind in ("slice", "subject")]
    assert row.split() == ["test", "0.6150", *(f"{value:.4f}" for value in ours)]
    assert "64 x 64 pixels, 1 epochs" in done.stdout
    assert done.stdout.count("split by slice") == 2
    assert "neighbours of a test slice were trained on" in done.stdout
    assert "--quick" in done.stdout


def test_what_is_missing_is_done_again(root: Path) -> None:
    """Without the decoder by subject, only that is trained and measured; without a figure, only that."""
    result = printed(root)
    decoder = Path(result["splits"]["subject"]["decoder"])
    weights = load_checkpoint(decoder).state
    decoder.unlink()
    shutil.rmtree(decoder.with_suffix(".training"))
    done = again(root, "--json")
    assert done.exit_code == 3, done.output
    assert done.stderr.count("epoch 1/1") == 1
    assert done.stderr.count("evaluating") == 3
    again_trained = load_checkpoint(decoder).state
    assert all(torch.equal(again_trained[name], weights[name]) for name in weights)
    found = json.loads(done.stdout)["splits"]
    assert found["slice"] == result["splits"]["slice"]
    assert [found["subject"][part] for part in PARTS] == [result["splits"]["subject"][part] for part in PARTS]


def test_one_kind_of_split_alone(root: Path) -> None:
    """--split subject leaves the leaking one out."""
    done = again(root, "--split", "subject", "--json")
    assert list(json.loads(done.stdout)["splits"]) == ["subject"]


def labelled_pixels(location: str) -> int:
    """Of a whole data set."""
    slices = open_data_set(location).read()
    return int(slices.labels(np.arange(len(slices))).sum())


def test_an_organ_is_learned_from_data_of_its_own(root: Path) -> None:
    """--organ tumour leaves lungs out, by name or value; without it they count, which is said. Both stay."""
    everything = printed(root)
    done = in_a_process(root, "--organ", "tumour", "--split", "subject")
    tumours = json.loads(done.stdout)
    assert (everything["organ"], tumours["organ"]) == (None, 1)
    assert "choose one with --organ: 4 (" in (root / "told.txt").read_text()
    assert "--organ" not in done.stderr
    assert open_data_set(tumours["data"]).manifest.recipe.organ == 1
    assert 0 < labelled_pixels(tumours["data"]) < labelled_pixels(everything["data"]) / 2
    assert load_checkpoint(Path(tumours["splits"]["subject"]["decoder"])).metadata.data_digest == tumours["data_digest"]
    for arguments, before in ((["--organ", "1"], tumours), ([], everything)):
        repeated = again(root, *arguments, "--split", "subject", "--json")
        assert "epoch" not in repeated.stderr
        assert json.loads(repeated.stdout)["splits"]["subject"] == before["splits"]["subject"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--organ", "liver"], "--organ liver: dataset.json has the labels 1 (tumour), 2 (lungs)"),
        (["--image-size", "96"], "power of two"),
        (["--set", "image_size=128"], "--image-size"),
        (["--set", "epochs=none"], "none"),
        (["--msd-dir", "nowhere"], "dataset.json"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(root: Path, arguments: list[str], said: str) -> None:
    """Before anything is read."""
    done = again(root, *arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed=7", "give --seed"),
        ("split=slice", "give --split"),
        ("fold=1", "split once"),
        ("keep=best_iou", "no IoU"),
        ("crop_size=32", "crop_size 32"),
    ],
)
def test_settings_that_no_stage_can_have_are_refused_first(tmp_path: Path, setting: str, said: str) -> None:
    """Not even the raw data are looked for."""
    options = ["--msd-dir", str(tmp_path / "nowhere"), "--store", str(tmp_path / "store"), "--set", setting]
    done = CliRunner().invoke(main, ["reproduce", *options])
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert not (tmp_path / "store").exists()
