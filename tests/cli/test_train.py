"""`vaeseg-batch train` as a user calls it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from vaeseg.cli import main
from vaeseg.models.checkpoint import load_checkpoint

QUICK = ["--set", "image_size=64", "--set", "base_width=2", "--set", "latent_channels=2", "--set", "batch_size=4"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """These networks are tiny: run on one thread, here and in child processes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def msd_dir(tmp_path: Path) -> Path:
    """Four subjects of three slices, 64 x 64, with a square tumour each."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for n in range(4):
        label = np.zeros((64, 64, 3), dtype=np.int16)
        label[20:30, 20:30] = 1
        image = np.where(label, 30, -800) + rng.integers(-20, 20, label.shape)
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            volume = nibabel.Nifti1Image(array.astype(np.int16), np.diag([-1.0, -1.0, 2.0, 1.0]))
            nibabel.save(volume, root / folder / f"p{n}.nii.gz")
    training = [{"image": f"imagesTr/p{n}.nii.gz", "label": f"labelsTr/p{n}.nii.gz"} for n in range(4)]
    (root / "dataset.json").write_text(json.dumps({"training": training}))
    return root


def vaeseg(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def test_decoder_is_trained_into_the_store(msd_dir: Path, tmp_path: Path) -> None:
    """The model lands under its name, the result is JSON on stdout, progress goes to stderr."""
    done = vaeseg(
        "decoder", "--msd-dir", msd_dir, "--name", "m", "--store", tmp_path / "s", "--epochs", 2, "--seed", 5, "--json",
        "--half", *QUICK,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    checkpoint = load_checkpoint(tmp_path / "s" / "models" / "m.safetensors")
    assert (result["digest"], result["n_subjects"], result["n_slices"]) == (checkpoint.digest, 4, 12)
    assert (checkpoint.kind, checkpoint.architecture.base_width, checkpoint.preprocessing.image_size) == (
        "segmenter",
        2,
        64,
    )
    assert json.loads(checkpoint.metadata.training)["seed"] == 5
    assert "epoch 2/2" in done.stderr
    assert "slices/s" in done.stderr


def test_paper_preset_in_both_stages(msd_dir: Path, tmp_path: Path) -> None:
    """Stage one, then a decoder on its frozen encoder: network and preprocessing come from stage one."""
    common = ["--msd-dir", msd_dir, "--store", tmp_path, "--preset", "paper", "--epochs", 1]
    first = vaeseg("vae", "--name", "one", *common, *QUICK)
    assert first.exit_code == 0, first.output
    second = vaeseg("decoder", "--vae", "one", "--name", "two", *common)
    assert second.exit_code == 0, second.output
    one, two = (load_checkpoint(tmp_path / "models" / f"{name}.safetensors") for name in ("one", "two"))
    assert (one.kind, two.kind, two.architecture.kind, two.preprocessing.intensity) == (
        "vae",
        "segmenter",
        "paper",
        "minmax",
    )
    assert two.architecture == one.architecture
    assert two.metadata.parent_digest == one.digest


def test_split_by_slice_is_recorded(msd_dir: Path, tmp_path: Path) -> None:
    """The paper's split is available, and the model says that it was used."""
    done = vaeseg(
        "vae", "--msd-dir", msd_dir, "--name", "m", "--store", tmp_path, "--split", "slice", "--epochs", 1, *QUICK
    )
    assert done.exit_code == 0, done.output
    metadata = load_checkpoint(tmp_path / "models" / "m.safetensors").metadata
    assert json.loads(metadata.training)["split"] == "slice"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "epochs"], "not KEY=VALUE"),
        (["--set", "sklearn=1"], "no such setting"),
        (["--set", "epochs=many"], "many"),
        (["--set", "freeze_encoder=maybe"], "maybe"),
        (["--set", "image_size=60"], "60"),
        (["--set", "crop_size=12"], "crop_size 12"),
        (["--preset", "paper"], "--vae"),
        (["--vae", "nobody"], "no model nobody"),
        (["--name", "../x"], "no model name"),
        (["--msd-dir", "nowhere"], "dataset.json"),
    ],
)
def test_impossible_options_are_one_line_and_exit_2(
    msd_dir: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    """Each is told in one line on stderr; nothing is trained."""
    done = vaeseg("decoder", "--msd-dir", msd_dir, "--name", "m", "--store", tmp_path / "s", *arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "s").exists()


def test_settings_may_not_change_stage_ones_network(msd_dir: Path, tmp_path: Path) -> None:
    """With --vae the network is given."""
    common = ["--msd-dir", msd_dir, "--store", tmp_path, "--epochs", 1]
    assert vaeseg("vae", "--name", "one", *common, *QUICK).exit_code == 0
    done = vaeseg("decoder", "--vae", "one", "--name", "two", *common, "--set", "base_width=4")
    assert done.exit_code == 2
    assert "cannot change" in done.stderr


def test_damaged_volume_is_left_out_and_exit_is_3(msd_dir: Path, tmp_path: Path) -> None:
    """The model is trained on the rest, and the one left out is named with its reason."""
    (msd_dir / "imagesTr" / "p2.nii.gz").write_bytes(b"junk")
    done = vaeseg("decoder", "--msd-dir", msd_dir, "--name", "m", "--store", tmp_path, "--epochs", 1, "--json", *QUICK)
    assert done.exit_code == 3, done.output
    assert list(json.loads(done.stdout)["refused"]) == ["p2"]
    assert "left out p2: damaged_file" in done.stderr
    assert (tmp_path / "models" / "m.safetensors").is_file()


def test_nothing_to_resume_is_an_error(msd_dir: Path, tmp_path: Path) -> None:
    """--resume without a state says so and exits 1."""
    done = vaeseg("decoder", "--msd-dir", msd_dir, "--name", "m", "--store", tmp_path, "--resume", *QUICK)
    assert done.exit_code == 1
    assert "nothing to resume" in done.stderr


def test_store_that_cannot_be_written_is_one_line(msd_dir: Path, tmp_path: Path) -> None:
    """A file where the store should be: exit 1, no traceback."""
    (tmp_path / "s").touch()
    done = vaeseg("decoder", "--msd-dir", msd_dir, "--name", "m", "--store", tmp_path / "s", "--epochs", 1, *QUICK)
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr


def test_interrupt_leaves_a_state_that_resumes_to_the_same_model(msd_dir: Path, tmp_path: Path) -> None:
    """Ctrl-C says how to go on, exits 1, and --resume gives the model of an uninterrupted run."""
    options = ["decoder", "--msd-dir", msd_dir, "--name", "m", "--epochs", 12, *QUICK]
    whole = vaeseg(*options, "--store", tmp_path / "whole", "--json")
    assert whole.exit_code == 0, whole.output
    store = tmp_path / "cut"
    cut = subprocess.Popen(
        [sys.executable, "-c", "from vaeseg.cli import main; main()", "train", *map(str, options), "--store", store],
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
        text=True,
    )
    assert cut.stderr is not None
    seen = ""
    while "epoch 2/12" not in seen:
        line = cut.stderr.readline()
        assert line, seen
        seen += line
    cut.send_signal(signal.SIGINT)
    _, rest = cut.communicate(timeout=60)
    assert cut.returncode == 1, seen + rest
    assert "--resume" in rest
    assert "Traceback" not in rest
    assert (store / "models" / "m.training-state").is_file()
    resumed = vaeseg(*options, "--store", store, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.output
    assert json.loads(resumed.stdout)["digest"] == json.loads(whole.stdout)["digest"]
    assert not (store / "models" / "m.training-state").exists()
