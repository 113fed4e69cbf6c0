"""`vaeseg-batch train` as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from training_factories import write_squares

from vaeseg.cli import main
from vaeseg.models.checkpoint import load_checkpoint

QUICK = ["--set", "base_width=2", "--set", "latent_channels=2", "--set", "batch_size=4", "--set", "precision=fp32"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four subjects of three slices, 64 x 64, with a square tumour in two of them each."""
    return write_squares(tmp_path_factory.mktemp("data") / "set", n_subjects=4)


def vaeseg(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def test_decoder_is_trained_into_the_store(data: str, tmp_path: Path) -> None:
    """The model lands under its name, the result is JSON on stdout, progress goes to stderr, pictures lie beside it."""
    done = vaeseg(
        "decoder", "--data", data, "--name", "m", "--store", tmp_path / "s", "--epochs", 2, "--seed", 5, "--json",
        "--half", *QUICK,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    checkpoint = load_checkpoint(tmp_path / "s" / "models" / "m.safetensors")
    assert (result["digest"], result["n_subjects"], result["n_slices"], result["epochs"]) == (
        checkpoint.digest,
        4,
        12,
        2,
    )
    assert (checkpoint.kind, checkpoint.architecture.base_width, checkpoint.preprocessing.image_size) == (
        "segmenter",
        2,
        64,
    )
    assert json.loads(checkpoint.metadata.training)["seed"] == 5
    assert "epoch 2/2" in done.stderr
    assert "slices/s" in done.stderr
    assert {"curves.png", "examples.png", "history.jsonl"} <= {
        path.name for path in (tmp_path / "s/models/m.training").iterdir()
    }


def test_paper_preset_in_both_stages(data: str, tmp_path: Path) -> None:
    """Stage one, then a decoder on its frozen encoder with the network of stage one; windowed data is remarked on."""
    common = ["--data", data, "--store", tmp_path, "--preset", "paper", "--epochs", 1]
    first = vaeseg("vae", "--name", "one", *common, *QUICK)
    assert first.exit_code == 0, first.output
    assert "minmax" in first.stderr
    second = vaeseg("decoder", "--vae", "one", "--name", "two", *common)
    assert second.exit_code == 0, second.output
    one, two = (load_checkpoint(tmp_path / "models" / f"{name}.safetensors") for name in ("one", "two"))
    assert (one.kind, two.kind, two.architecture.kind) == ("vae", "segmenter", "paper")
    assert two.architecture == one.architecture
    assert two.metadata.parent_digest == one.digest


def test_split_by_slice_is_recorded(data: str, tmp_path: Path) -> None:
    """The paper's split is available, and the model says that it was used."""
    done = vaeseg("vae", "--data", data, "--name", "m", "--store", tmp_path, "--split", "slice", "--epochs", 1, *QUICK)
    assert done.exit_code == 0, done.output
    metadata = load_checkpoint(tmp_path / "models" / "m.safetensors").metadata
    assert json.loads(metadata.training)["split"] == "slice"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "epochs"], "not KEY=VALUE"),
        (["--set", "sklearn=1"], "no such setting"),
        (["--set", "seed=7"], "give --seed"),
        (["--set", "split=slice"], "give --split"),
        (["--set", "fold=1"], "give --fold"),
        (["--set", "epochs=5", "--epochs", "2"], "give --epochs"),
        (["--set", "epochs=many"], "many"),
        (["--set", "freeze_encoder=maybe"], "maybe"),
        (["--set", "image_size=60"], "60"),
        (["--set", "image_size=128"], "64 pixel slices, the network takes 128"),
        (["--set", "crop_size=12"], "crop_size 12"),
        (["--set", "ema_decay=1"], "ema_decay"),
        (["--preset", "paper"], "--vae"),
        (["--vae", "nobody"], "no model nobody"),
        (["--name", "../x"], "no model name"),
        (["--data", "nowhere"], "prepare"),
        (["--fold", "1"], "none has the number 1"),
        (["--workers", "3:2"], "MIN:MAX"),
        (["--workers", "many"], "MIN:MAX"),
    ],
)
def test_impossible_options_are_one_line_and_exit_2(data: str, tmp_path: Path, arguments: list[str], said: str) -> None:
    """Each is told in one line on stderr; nothing is trained."""
    done = vaeseg("decoder", "--data", data, "--name", "m", "--store", tmp_path / "s", *arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "s").exists()


def test_settings_may_not_change_stage_ones_network(data: str, tmp_path: Path) -> None:
    """With --vae the network is given."""
    common = ["--data", data, "--store", tmp_path, "--epochs", 1]
    assert vaeseg("vae", "--name", "one", *common, *QUICK).exit_code == 0
    done = vaeseg("decoder", "--vae", "one", "--name", "two", *common, "--set", "base_width=4")
    assert done.exit_code == 2
    assert "cannot change" in done.stderr


def test_nothing_is_replaced_unasked(data: str, tmp_path: Path) -> None:
    """Neither a model nor the state of an unfinished training; --force does, but the model it starts from."""
    common = ["decoder", "--data", data, "--store", tmp_path, "--epochs", 1, *QUICK]
    model = tmp_path / "models" / "m.safetensors"
    assert vaeseg(*common, "--name", "m").exit_code == 0
    before = model.read_bytes()
    refused = vaeseg(*common, "--name", "m", "--seed", 1)
    assert (refused.exit_code, model.read_bytes()) == (2, before)
    assert "another model is called m: choose another --name, or replace it with --force" in refused.stderr
    parent = ["decoder", "--data", data, "--store", tmp_path, "--epochs", 1, "--vae", "m", "--name", "m"]
    for option in ([], ["--force"], ["--resume"]):
        own = vaeseg(*parent, *option)
        assert (own.exit_code, model.read_bytes()) == (2, before)
        assert "the model that it starts from" in own.stderr
    state = tmp_path / "models" / "m.training" / "state.safetensors"
    state.write_bytes(b"half")
    unfinished = vaeseg(*common, "--name", "m")
    assert (unfinished.exit_code, state.read_bytes()) == (2, b"half")
    assert "--resume goes on, --force starts over" in unfinished.stderr
    assert vaeseg(*common, "--name", "m", "--force", "--resume").exit_code == 2
    assert vaeseg(*common, "--name", "m", "--seed", 1, "--force").exit_code == 0
    assert model.read_bytes() != before
    assert not state.exists()


def test_what_stage_one_has_seen_is_said(data: str, tmp_path: Path) -> None:
    """By slice it has seen everybody; of the same split there is nothing to say."""
    common = ["--data", data, "--store", tmp_path, "--epochs", 1]
    assert vaeseg("vae", "--name", "one", *common, "--split", "slice", *QUICK).exit_code == 0
    done = vaeseg("decoder", "--vae", "one", "--name", "two", *common, "--json")
    assert done.exit_code == 0, done.output
    assert "has seen 1 of the 1 subjects of the test part: there will be no test figures" in done.stderr
    assert "has seen 1 of the 1 subjects of the dev part" in done.stderr
    assert json.loads(done.stdout)["metrics"]["test_loss"] is None
    same = vaeseg("decoder", "--vae", "one", "--name", "three", *common, "--split", "slice")
    assert same.exit_code == 0, same.output
    assert "has seen" not in same.stderr


def test_nothing_to_resume_is_an_error(data: str, tmp_path: Path) -> None:
    """--resume without a state says so and exits 1."""
    done = vaeseg("decoder", "--data", data, "--name", "m", "--store", tmp_path, "--resume", *QUICK)
    assert done.exit_code == 1
    assert "nothing to resume" in done.stderr


def test_store_that_cannot_be_written_is_one_line(data: str, tmp_path: Path) -> None:
    """A file where the store's models should be: exit 1, no traceback."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "models").touch()
    done = vaeseg("decoder", "--data", data, "--name", "m", "--store", tmp_path / "s", "--epochs", 1, *QUICK)
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr


def test_metrics_are_served_while_it_trains(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus finds the epochs done on the port given, on the loopback interface; a taken port is told."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen: list[str] = []

    def scrape(*_: object) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            seen.append(answer.read().decode())

    monkeypatch.setattr("vaeseg.training.tensorboard.TensorBoard.on_epoch", scrape)
    command = ["decoder", "--data", data, "--name", "m", "--store", tmp_path, "--epochs", 2, "--force", *QUICK]
    assert vaeseg(*command, "--metrics-port", port).exit_code == 0
    assert "vaeseg_training_epochs_planned 2.0" in seen[-1]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = vaeseg(*command, "--metrics-port", taken.getsockname()[1])
    assert refused.exit_code == 2
    assert "--metrics-port" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupt_leaves_a_state_that_resumes_to_the_same_model(
    data: str, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM says how to go on, exits 1, and --resume gives the model of an uninterrupted run."""
    options = ["decoder", "--data", data, "--name", "m", "--epochs", 12, *QUICK]
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
    cut.send_signal(number)
    _, rest = cut.communicate(timeout=60)
    assert cut.returncode == 1, seen + rest
    assert "--resume" in rest
    assert "Traceback" not in rest
    assert (store / "models" / "m.training" / "state.safetensors").is_file()
    resumed = vaeseg(*options, "--store", store, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.output
    assert json.loads(resumed.stdout)["digest"] == json.loads(whole.stdout)["digest"]
    assert not (store / "models" / "m.training" / "state.safetensors").exists()
