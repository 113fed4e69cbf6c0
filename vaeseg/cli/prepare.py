"""`vaeseg-batch prepare`: volumes in, a data set of slices out."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.options import DIRECTORY, json_option, store_option
from vaeseg.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from vaeseg.config import PreprocessingConfig
    from vaeseg.distributed.prepare import ArchiveSource, PreparationReport, PreparationRequest, Progress
    from vaeseg.paths import AnyPath

SHOWN_REFUSALS = 20
"""Refused items listed in a summary; the manifest has all of them."""

_directory = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--msd-dir", type=_directory, help="Data set in MSD layout, with dataset.json.")
@click.option("--archive", type=DIRECTORY, help="Directory of DICOM or NIfTI.")
@click.option("--label-dir", type=DIRECTORY, help="Labels named <series_instance_uid>.nii.gz, for --archive.")
@click.option("--out", required=True, metavar="DIR|URL", help="Where the data set goes, such as s3://bucket/name.")
@click.option("--image-size", type=click.IntRange(8, 4096), default=256, show_default=True, help="Side, pixels.")
@click.option(
    "--intensity",
    metavar="minmax|window:LO:HI|volume|slice",
    default="window:-1000:400",
    show_default=True,
    help="What becomes 0 and 1: each volume's own range (the paper's), a window in HU, or a reach about the mean of "
    "each volume or slice.",
)
@click.option("--bits", type=click.Choice(["8", "16"]), default="8", show_default=True, help="Of a pixel.")
@click.option("--organ", metavar="LABEL", help="Label value, or its name in dataset.json; any above 0 if not given.")
@click.option("--folds", type=click.IntRange(0), default=0, show_default=True, help="k folds; 0 splits 80/10/10.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the splits.")
@click.option("--force", is_flag=True, help="Replace another data set at --out.")
@store_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
    """Prepare a data set of slices for training, once.

    Where any volume has a label, those without are left out and counted; without labels the data set serves stage one.
    The store holds the key from which an archive's subject names are made. Exit code 3 when something was refused.
    """
    report = _run(_request(**options))
    click.echo(json.dumps(_as_json(report)) if as_json else _described(report))
    ctx.exit(EXIT_OK if report.complete else EXIT_INCOMPLETE)


def _request(
    *,
    msd_dir: Path | None,
    archive: Path | None,
    label_dir: Path | None,
    out: str,
    image_size: int,
    intensity: str,
    bits: str,
    organ: str | None,
    folds: int,
    seed: int,
    force: bool,
    store: AnyPath,
) -> PreparationRequest:
    from vaeseg.distributed.prepare import PreparationRequest
    from vaeseg.io.dataset_manifest import Recipe

    source = _source(msd_dir, archive, label_dir, store)
    preprocessing = preprocessing_of(image_size, intensity)
    value = None if organ is None else _organ(organ, msd_dir)
    try:
        recipe = Recipe(
            preprocessing=preprocessing,
            bits=8 if bits == "8" else 16,
            organ=value,
            source="archive" if msd_dir is None else "msd",
            seed=seed,
            n_folds=folds,
        )
    except ValueError as error:
        raise UsageError(f"--folds {folds}: give 0 for one split, or at least 3") from error
    return PreparationRequest(source=source, recipe=recipe, out=out, force=force)


def _source(
    msd_dir: Path | None, archive: AnyPath | None, label_dir: AnyPath | None, store: AnyPath
) -> Path | ArchiveSource:
    from vaeseg.distributed.prepare import ArchiveSource

    if (msd_dir is None) == (archive is None):
        raise UsageError("give one of --msd-dir and --archive")
    if msd_dir is not None:
        if label_dir is not None:
            raise UsageError("--label-dir goes with --archive; dataset.json names the labels of --msd-dir")
        return msd_dir.resolve()
    assert archive is not None
    return ArchiveSource(path=archive.resolve(), label_dir=label_dir, store_root=store)


def preprocessing_of(image_size: int, intensity: str) -> PreprocessingConfig:
    """The preprocessing that --image-size and --intensity ask for.

    Raises:
        UsageError: none of these, or a window without its lower bound first.
    """
    from vaeseg.config import PreprocessingConfig

    if intensity in ("minmax", "volume", "slice"):
        return PreprocessingConfig(image_size=image_size, intensity=intensity)  # type: ignore[arg-type]  # just checked
    kind, *bounds = intensity.split(":")
    try:
        low, high = (float(bound) for bound in bounds)
        if kind != "window":
            raise ValueError
        return PreprocessingConfig(image_size=image_size, window_low_hu=low, window_high_hu=high)
    except ValueError as error:
        raise UsageError(
            f"--intensity {intensity} is not minmax, volume, slice, or window:LO:HI with LO below HI, in HU"
        ) from error


def _organ(text: str, msd_dir: Path | None) -> int:
    from vaeseg.io.msd import read_label_names
    from vaeseg.training.preparation import organ_value

    return organ_value(text, None if msd_dir is None else read_label_names(msd_dir))


def _run(request: PreparationRequest) -> PreparationReport:
    """Prepare, with a progress bar where somebody looks at it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from vaeseg.distributed.prepare import prepare

    if not sys.stderr.isatty():
        return prepare(request)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("volumes  {task.fields[slices]} slices  {task.fields[refused]} refused"),
        TimeRemainingColumn(),
    )
    # a descriptor of its own: standard error itself is held back while Ray starts
    terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w")
    with terminal, Bar(*columns, console=Console(file=terminal), transient=True) as bar:
        task = bar.add_task("listing volumes, starting Ray", total=None, slices=0, refused=0)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                description="preparing",
                total=progress.total,
                completed=progress.done,
                slices=progress.n_slices,
                refused=progress.refused,
            )

        return prepare(request, show)


def _as_json(report: PreparationReport) -> dict[str, Any]:
    manifest = report.manifest
    return {
        "data": report.location,
        "status": report.status,
        "digest": manifest.digest,
        "n_subjects": manifest.n_subjects,
        "n_slices": manifest.n_slices,
        "n_label_slices": manifest.n_label_slices if manifest.with_labels else None,
        "with_labels": manifest.with_labels,
        "organ": manifest.recipe.organ,
        "counts": manifest.counts,
        "refused": [{"name": item.name, "reason": item.reason, "detail": item.detail} for item in manifest.refused],
        "warnings": {warning: list(names) for warning, names in report.warnings.items()},
        "sources": dict(manifest.sources or {}),
        "folds": report.n_split_folds,
        "n_bytes": sum(shard.n_bytes for shard in manifest.shards),
        "seconds": round(report.seconds, 3),
        "next": _next(report),
    }


def _described(report: PreparationReport) -> str:
    from vaeseg.noticed import sentences

    manifest, counts = report.manifest, report.manifest.counts
    what = "written" if report.status == "written" else "is there already, nothing to do"
    size = sum(shard.n_bytes for shard in manifest.shards) / 1e6
    labels = f", {manifest.n_label_slices} with a label" if manifest.with_labels else ", no labels"
    lines = [
        f"data     {report.location} {what} in {report.seconds:.1f} s: {size:.1f} MB, digest {manifest.digest[:12]}",
        f"slices   {manifest.n_slices} of {manifest.n_subjects} subjects{labels}",
        f"volumes  {counts.pop('items')} found, " + ", ".join(f"{count} {name}" for name, count in counts.items()),
        *_described_sources(manifest.sources or {}),
        *(f"  {item.name}  {item.reason}: {item.detail}" for item in manifest.refused[:SHOWN_REFUSALS]),
    ]
    if len(manifest.refused) > SHOWN_REFUSALS:
        lines.append(f"  and {len(manifest.refused) - SHOWN_REFUSALS} more, see manifest.json")
    lines += [f"  {sentence}" for sentence in sentences(report.warnings)]
    lines.append(f"splits   {_described_splits(report)}")
    return "\n".join([*lines, f"next     {_next(report)}"])


def _described_sources(sources: Any) -> list[str]:
    lines = []
    if files := sources.get("files"):
        reasons = "".join(f", {reason} {count}" for reason, count in files["refused_by_reason"].items())
        lines.append(
            f"files    found {files['found']}, in series {files['in_series']}, refused {files['refused']}{reasons}"
        )
    if sources.get("unmatched_labels"):
        lines.append(f"labels   {sources['unmatched_labels']} files have the name of no series, or of several images")
    return lines


def _described_splits(report: PreparationReport) -> str:
    asked = report.manifest.recipe.n_folds
    described = [f"by {kind}: {n} {'fold' if n == 1 else 'folds'}" for kind, n in report.n_split_folds.items()]
    if not report.n_split_folds["subject"]:
        described[0] = f"by subject: none, fewer than {asked or 3} different subjects"
    return "; ".join(described)


def _next(report: PreparationReport) -> str:
    options = "" if report.n_split_folds["subject"] else " --split slice"
    return f"vaeseg-batch train vae --data {shlex.quote(report.location)} --name my-vae{options}"
