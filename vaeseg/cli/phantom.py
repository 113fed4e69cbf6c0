"""`vaeseg-batch phantom`: write a synthetic thorax CT archive."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import click

from vaeseg.errors import UsageError
from vaeseg.logs import is_json


@click.command(name="phantom")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--patients", type=click.IntRange(1), default=4, show_default=True, help="How many, one series each.")
@click.option("--layout", type=click.Choice(["dicom", "msd"]), default="dicom", show_default=True, help="See above.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed gives the same files."
)
@click.option("--image-size", type=click.IntRange(16, 2048), default=512, show_default=True, help="Side, pixels.")
@click.option("--z-extent-mm", type=click.FloatRange(1), help="Length of each scan; the whole chest if not given.")
@click.option("--slice-spacing-mm", type=click.FloatRange(0.1, 20), help="If not given, 0.7 to 5 mm by patient.")
@click.option(
    "--transfer-syntax",
    type=click.Choice(["explicit", "jpegls", "j2k", "rle"]),
    default="explicit",
    show_default=True,
    help="How DICOM pixels are stored; all are lossless.",
)
@click.option("--organ-labels", is_flag=True, help="Label the lungs as 2 beside tumours as 1; --layout msd only.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes, one patient each.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(directory: Path, layout: str, workers: int, organ_labels: bool, as_json: bool, **settings: Any) -> None:
    """Write a synthetic thorax CT archive with tumours into DIRECTORY, which has to be new or empty.

    With --layout dicom: dicom/<patient>/ with one CT series each, and labels/<series instance UID>.nii.gz. With
    --layout msd: imagesTr, labelsTr and dataset.json as in the Medical Segmentation Decathlon. phantom.json lists
    every tumour. Nothing here was ever a patient.

    Exit codes: 0 written, 1 a file cannot be written, 2 DIRECTORY is not empty or cannot be used.
    """
    from vaeseg.config import PhantomConfig
    from vaeseg.phantom.writing import prepare_directory

    if organ_labels and layout != "msd":
        raise UsageError("--organ-labels goes with --layout msd, whose dataset.json says what each value means")
    prepare_directory(directory)
    config = PhantomConfig(n_patients=settings.pop("patients"), **settings)
    entries = _write(directory, layout, config, workers, organ_labels)
    result = _result(directory, layout, entries, organ_labels)
    click.echo(json.dumps(result) if as_json else _described(result))


def _write(directory: Path, layout: str, config: Any, workers: int, organ_labels: bool) -> list[dict[str, Any]]:
    """Write with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from vaeseg.phantom.dicom_writer import write_dicom_archive
    from vaeseg.phantom.msd_writer import write_msd_dataset

    write = write_dicom_archive if layout == "dicom" else partial(write_msd_dataset, organ_labels=organ_labels)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("patients, {task.fields[n_slices]} slices"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=is_json()) as progress:
        task = progress.add_task("phantom", total=config.n_patients, n_slices=0)

        def report(n_slices: int) -> None:
            progress.update(task, advance=1, n_slices=progress.tasks[0].fields["n_slices"] + n_slices)

        return write(directory, config, workers, report)


def _result(directory: Path, layout: str, entries: list[dict[str, Any]], organ_labels: bool) -> dict[str, Any]:
    result: dict[str, Any] = {
        "directory": str(directory),
        "layout": layout,
        "n_patients": len(entries),
        "n_slices": sum(entry["n_slices"] for entry in entries),
        "n_slices_with_tumour": sum(entry["n_slices_with_tumour"] for entry in entries),
        "n_tumours": sum(len(entry["tumours"]) for entry in entries),
    }
    if layout == "dicom":
        study, label = str(directory / "dicom"), str(directory / "labels")
        following = ["vaeseg-batch", "submit", "--study-dir", study, "--label-dir", label]
        return result | {"study_dir": study, "label_dir": label, "next": shlex.join(following)}
    following = ["vaeseg-batch", "prepare", "--msd-dir", str(directory), "--out", f"{directory}-slices"]
    following += ["--organ", "tumour"] * organ_labels
    return result | {"msd_dir": str(directory), "next": shlex.join(following)}


def _described(result: dict[str, Any]) -> str:
    places = {"study_dir": "DICOM", "label_dir": "labels", "msd_dir": "data set"}
    lines = [
        f"{result['n_patients']} patients, {result['n_slices']} slices ({result['n_slices_with_tumour']} with tumour), "
        f"{result['n_tumours']} tumours",
        *(f"{what + ':':10}{result[key]}" for key, what in places.items() if key in result),
        f"next:     {result['next']}",
    ]
    return "\n".join(lines)
