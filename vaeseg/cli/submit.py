"""`vaeseg-batch submit`: a study directory in, masks and findings out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.options import DIRECTORY
from vaeseg.cli.segmentation import carry_out, segmentation_options, submission

if TYPE_CHECKING:
    from vaeseg.paths import AnyPath


@click.command()
@click.option(
    "--study-dir",
    required=True,
    type=DIRECTORY,
    help="Directory of DICOM or NIfTI, searched whole.",
)
@click.option(
    "--label-dir",
    type=DIRECTORY,
    help="Directory of label volumes named <series_instance_uid>.nii.gz; IoU and Dice are measured where one fits.",
)
@segmentation_options
@click.pass_context
def command(
    ctx: click.Context, /, study_dir: AnyPath, label_dir: AnyPath | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Segment every readable series of a study directory and measure the tumours.

    What was done before is not done again, and a file that did not change is not opened again. Exit code 3 when some
    series failed, crashed or were refused.
    """
    labels = label_dir.resolve() if label_dir else None
    carry_out(ctx, submission(study_dir.resolve(), labels, **options), dry_run, as_json)
