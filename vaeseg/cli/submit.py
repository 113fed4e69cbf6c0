"""`vaeseg-batch submit`: a study directory in, masks and findings out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vaeseg.cli.segmentation import carry_out, segmentation_options, submission


@click.command()
@click.option(
    "--study-dir",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of DICOM or NIfTI, searched whole.",
)
@click.option(
    "--label-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of label volumes named <series_instance_uid>.nii.gz; IoU and Dice are measured where one fits.",
)
@segmentation_options
@click.pass_context
def command(
    ctx: click.Context, /, study_dir: Path, label_dir: Path | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Segment every readable series of a study directory and measure the tumours.

    What was done before is not done again, and a file that did not change is not opened again. Exit code 3 when some
    series failed, crashed or were refused.
    """
    labels = label_dir.resolve() if label_dir else None
    carry_out(ctx, submission(study_dir.resolve(), labels, **options), dry_run, as_json)
