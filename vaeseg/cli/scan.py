"""`vaeseg-batch scan`: what is new in an archive, segmented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.options import DURATION, opened_for_query
from vaeseg.cli.segmentation import carry_out, segmentation_options, submission
from vaeseg.errors import UsageError

if TYPE_CHECKING:
    from vaeseg.db.archives import Archive
    from vaeseg.distributed.submit import Submission


@click.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.option(
    "--stable-for",
    "stable_seconds",
    type=DURATION,
    default="30m",
    show_default=True,
    help="Leave files alone that changed within this time, and their studies: they may still be arriving.",
)
@click.option(
    "--select",
    "rules_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Rules in TOML or JSON: which readable series are segmented, and which one of a study.",
)
@click.option("--index-only", is_flag=True, help="Bring the index up to date and segment nothing.")
@segmentation_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    archive_name: str,
    stable_seconds: float,
    rules_file: Path | None,
    index_only: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Look for what is new or changed in an archive and segment what has no finding by this model yet.

    Headers are read of new and changed files only. Exit code 3 when some series failed, crashed or were refused.
    """
    if index_only and rules_file:
        raise UsageError("--select has no effect with --index-only, which segments nothing")
    archive = _archive(archive_name, options["store"], options["db"])
    labels = Path(archive.label_root) if archive.label_root else None
    submitted = submission(Path(archive.root), labels, stable_seconds=stable_seconds, rules_file=rules_file, **options)
    if index_only and not dry_run:
        _index(submitted, as_json)
    else:
        carry_out(ctx, submitted, dry_run, as_json)


def _archive(name: str, store: Path, db: str | None) -> Archive:
    from vaeseg.db.archives import archive_named

    with opened_for_query(store, db) as database:
        return archive_named(database, name)


def _index(submitted: Submission, as_json: bool) -> None:
    from vaeseg.distributed.submit import index_only

    counts = index_only(submitted)
    if as_json:
        print(json.dumps(counts))
        return
    print(f"files   {counts['n_listed']} listed, {counts['n_vanished']} vanished, {counts['n_waiting']} waiting")
    print(f"headers {counts['n_read']} read")
