"""The documents say what the code does."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import click
import pytest

from vaeseg import errors
from vaeseg.cli import COMMANDS, main
from vaeseg.config import ReadingConfig, model_preset
from vaeseg.evaluation.calibration import CalibrationHistogram
from vaeseg.evaluation.subjects import tabulate
from vaeseg.inference.evaluation import Evaluation, result_json
from vaeseg.io.inspection import inspect_paths
from vaeseg.models.segmenter import Segmenter
from vaeseg.records import Reason, Warn

PROJECT = Path(__file__).parents[2]


def document(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def first_column(text: str, heading: str) -> set[str]:
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE))


def test_every_reason_and_warning_is_documented() -> None:
    """docs/reading.md lists exactly the reasons and warnings that the code has."""
    reading = document("docs/reading.md")
    assert first_column(reading, "Reasons for refusal") == {str(reason) for reason in Reason}
    assert first_column(reading, "Warnings") == {str(warning) for warning in Warn}


def test_the_preset_is_the_network_that_was_measured() -> None:
    """docs/accuracy.md says what `improved` is."""
    network = Segmenter(replace(model_preset("improved"), image_size=96))
    parameters = f"{sum(weight.numel() for weight in network.parameters()):,} parameters"
    row = next(line for line in document("docs/accuracy.md").splitlines() if line.startswith("| network | "))
    assert row.endswith(f"{parameters} |")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_in_the_readme_and_has_help(name: str) -> None:
    """The README names it; it has a help text, and so has each of its options."""
    assert f"`vaeseg-batch {name}" in document("README.md")
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help


def test_exit_codes_are_those_of_the_readme() -> None:
    """Every error's exit code is a row of the table."""
    table = document("README.md").split("## Exit codes")[1].split("\n## ")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d) \|", table, flags=re.MULTILINE)}
    used = {
        error.exit_code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "exit_code")
    }
    assert documented == used | {errors.EXIT_OK, errors.EXIT_INCOMPLETE}


def test_the_keys_of_inspect_are_those_of_the_readme(tmp_path: Path) -> None:
    """The README names every key that `inspect --json` prints."""
    (tmp_path / "junk").write_text("no image")
    (row,) = inspect_paths([tmp_path], ReadingConfig())
    section = document("README.md").split("## What `inspect --json` prints")[1].split("\n## ")[0]
    assert set(row) <= set(re.findall(r"`(\w+)`", section))


def test_the_keys_of_evaluate_are_those_of_the_readme() -> None:
    """The README's table and docs/evaluation.md name exactly the keys that `evaluate --json` prints."""
    nothing = Evaluation(
        model="",
        digest="",
        threshold=0.5,
        computed_in="float32",
        location="",
        table=tabulate([]),
        calibration=CalibrationHistogram(),
        refused=(),
        overlap_subjects=None,
    )
    result = result_json(nothing, seed=0)
    section = document("README.md").split("## What `evaluate --json` prints")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == set(result)
    assert set(result["confidence"]) <= first_column(document("docs/evaluation.md"), "Figures")


def test_every_link_leads_somewhere() -> None:
    """Relative links in the README exist."""
    for target in re.findall(r"\]\(([^)#]+)\)", document("README.md")):
        assert (PROJECT / target).is_file(), target
