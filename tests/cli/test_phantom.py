"""`vaeseg-batch phantom` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from vaeseg.cli import main

SMALL = ["--patients", "1", "--image-size", "32", "--z-extent-mm", "12", "--slice-spacing-mm", "4"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["phantom", *arguments])


def test_dicom_layout_says_how_to_go_on(tmp_path: Path) -> None:
    """Both directories and the exact next command are printed on stdout."""
    target = tmp_path / "my archive"
    result = run(str(target), *SMALL)
    assert result.exit_code == 0, result.output
    assert f"vaeseg-batch submit --study-dir '{target}/dicom' --label-dir '{target}/labels'" in result.stdout
    assert len(list((target / "dicom" / "PHANTOM-0001").iterdir())) == 3
    assert len(list((target / "labels").iterdir())) == 1


def test_json_goes_to_stdout_and_nothing_else_does(tmp_path: Path) -> None:
    """With --json, stdout is one JSON object; progress goes to stderr."""
    result = run(str(tmp_path / "msd"), "--layout", "msd", "--json", *SMALL)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["n_patients"] == 1
    assert answer["n_slices"] == 3
    assert answer["next"].startswith("vaeseg-batch prepare --msd-dir")
    assert (tmp_path / "msd" / "dataset.json").exists()


def test_organ_labels_go_with_msd_alone(tmp_path: Path) -> None:
    """The option reaches the writer; without dataset.json nobody would know what 2 means."""
    assert run(str(tmp_path / "msd"), "--layout", "msd", "--organ-labels", *SMALL).exit_code == 0
    assert json.loads((tmp_path / "msd/dataset.json").read_text())["labels"]["2"] == "lungs"
    result = run(str(tmp_path / "dicom"), "--organ-labels", *SMALL)
    assert result.exit_code == 2
    assert "--layout msd" in result.stderr


def test_seed_is_used(tmp_path: Path) -> None:
    """Two seeds give two patients, one seed the same one."""
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run(str(tmp_path / name), "--layout", "msd", "--seed", seed, *SMALL).exit_code == 0
    content = {name: (tmp_path / name / "imagesTr/phantom_0001.nii.gz").read_bytes() for name in "abc"}
    assert content["a"] == content["b"]
    assert content["a"] != content["c"]


def test_occupied_directory_is_exit_code_2_and_one_line(tmp_path: Path) -> None:
    """The message names the directory and what to do; there is no traceback and no progress bar."""
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "file").write_text("mine")
    result = run(str(tmp_path / "occupied"), *SMALL)
    assert result.exit_code == 2
    assert result.stderr.strip().count("\n") == 0
    assert "is not empty" in result.stderr
    assert result.stdout == ""


def test_wrong_options_are_exit_code_2(tmp_path: Path) -> None:
    """Zero patients, an unknown layout or transfer syntax are wrong usage."""
    for wrong in (["--patients", "0"], ["--layout", "bids"], ["--transfer-syntax", "jpeg"], ["--seed", "-1"]):
        assert run(str(tmp_path / "x"), *wrong).exit_code == 2
    assert not (tmp_path / "x").exists()
