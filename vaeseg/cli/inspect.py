"""`vaeseg-batch inspect`: what is readable under a path, and why the rest is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vaeseg.errors import EXIT_INCOMPLETE, StoreError


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
@click.option(
    "--export-nifti",
    "export_dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write each readable volume in HU as NIfTI into this directory.",
)
@click.option("--max-voxels", type=click.IntRange(min=1), help="Refuse volumes that claim more voxels than this.")
@click.pass_context
def command(
    ctx: click.Context, paths: tuple[Path, ...], as_json: bool, export_dir: Path | None, max_voxels: int | None
) -> None:
    """Read DICOM and NIfTI under PATHS and report a verdict for each series.

    Every file found is in a series or in a refused group with its reason. Exit code 3 where anything was refused.
    """
    from vaeseg.config import ReadingConfig
    from vaeseg.io.inspection import inspect_paths

    config = ReadingConfig() if max_voxels is None else ReadingConfig(max_voxels=max_voxels)
    refused = False
    rows: list[dict[str, Any]] = []
    try:
        if export_dir is not None:
            export_dir.mkdir(parents=True, exist_ok=True)
        for row in inspect_paths(paths, config, export_dir):
            refused |= row["verdict"] == "refused"
            if as_json:
                print(json.dumps(row), flush=True)
            else:
                rows.append(row)
    except BrokenPipeError:  # whoever read the rows went away, as `| head` does
        raise
    except OSError as error:
        named = f" ({error.filename})" if error.filename else ""
        raise StoreError(f"inspect stopped: {error.strerror or type(error).__name__}{named}") from error
    if not as_json:
        _print_rows(rows)
    ctx.exit(EXIT_INCOMPLETE if refused else 0)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print("  ".join(_columns(row)))
        if notes := _notes(row):
            print(f"{'':10}{notes}")
    readable = sum(row["verdict"] == "readable" for row in rows)
    files = sum(row["n_files"] for row in rows)
    print(f"{files} files: {readable} readable series, {len(rows) - readable} refused groups")


def _columns(row: dict[str, Any]) -> list[str]:
    columns = [f"{row['verdict']:8}", f"{row['modality'] or '-':8}", f"{row['n_files']:5} files"]
    if row["shape"]:
        columns.append("x".join(map(str, row["shape"])))
        columns.append(" x ".join(f"{spacing:.4g}" for spacing in row["spacing_mm"]) + " mm")
        columns.append(f"{row['hu_min']:.0f} to {row['hu_max']:.0f} HU")
    return [*columns, row["series_instance_uid"] or "-"]


def _notes(row: dict[str, Any]) -> str:
    if row["reason"]:
        return f"{row['reason']}: {row['detail']}"
    return f"warnings: {', '.join(row['warnings'])}" if row["warnings"] else ""
