"""`vaeseg-batch compare-losses` as a user calls it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from training_factories import write_squares

from vaeseg.cli import main
from vaeseg.distributed.train import Workers
from vaeseg.models.checkpoint import load_checkpoint
from vaeseg.training.observing import Observer
from vaeseg.training.run import TrainedModel, TrainingRequest, run_training

QUICK = ["--epochs", "1", "--set", "base_width=2", "--set", "latent_channels=2"]


pytestmark = pytest.mark.usefixtures("one_thread")


def compare(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare-losses", *map(str, arguments)])


def test_figure_and_table_are_made_and_nothing_is_done_twice(tmp_path: Path) -> None:
    """JSON on stdout is that of the file, each model is the paper's with its loss; a second run trains nothing."""
    data, out = write_squares(tmp_path / "data"), tmp_path / "out"
    done = compare("--data", data, "--out", out, "--json", *QUICK)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((out / "losses.json").read_text())
    assert (out / "losses.png").stat().st_size > 10_000
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    figures = [key for key in (*result, *result["losses"][0]) if "_per_" in key or "latent" in key or "mse" in key]
    assert len(figures) == 5
    assert all(f"`{name}`" in text for name in [*figures, *(row["loss"] for row in result["losses"])])
    for row in result["losses"]:
        checkpoint = load_checkpoint(Path(row["model"]))
        assert (checkpoint.kind, checkpoint.architecture.kind) == ("vae", "paper")
        assert checkpoint.architecture.base_width == 2
        assert row["digest"] == checkpoint.digest
    assert done.stderr.count("epoch 1/1") == 3
    again = compare("--data", data, "--out", out, *QUICK)
    assert again.exit_code == 0, again.output
    assert "epoch" not in again.stderr
    shown = [line.split() for line in again.stdout.splitlines()[1:4]]
    assert [float(row[-1]) for row in shown] == [round(row["kl_nats_per_image"], 1) for row in result["losses"]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "no data set"),
        (["--set", "epochs"], "not KEY=VALUE"),
        (["--set", "sklearn=1"], "no such setting"),
        (["--set", "seed=7"], "give --seed"),
        (["--set", "split=slice"], "give --split"),
        (["--set", "epochs=5"], "give --epochs"),
        (["--set", "image_size=128"], "64 pixel slices"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    """Nothing is trained, nothing is written."""
    data = write_squares(tmp_path / "data", n_subjects=3)
    done = compare("--data", data, "--out", tmp_path / "out", *QUICK, *arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_an_interrupted_training_goes_on_with_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said is the way on; a state that is there is resumed without being asked for."""
    data, resumed = write_squares(tmp_path / "data"), []

    def interrupted(request: TrainingRequest, workers: Workers, observer: Observer) -> TrainedModel:
        resumed.append(request.resume)
        return run_training(request, replace(observer, should_stop=lambda: True))

    monkeypatch.setattr("vaeseg.distributed.train.train_model", interrupted)
    for _ in range(2):
        done = compare("--data", data, "--out", tmp_path / "out", *QUICK, "--epochs", 3)
        assert done.exit_code == 1, done.output
        assert "the same command goes on" in done.stderr
        assert "--resume" not in done.stderr
    assert resumed == [False, True]
    assert not (tmp_path / "out" / "losses.json").exists()
