"""`vaeseg-batch scan`: what is new in an archive, segmented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaeseg.cli.options import DEADLINE, DURATION, opened_for_query, opened_to_watch
from vaeseg.cli.segmentation import carry_out, segmentation_options, submission
from vaeseg.errors import UsageError

if TYPE_CHECKING:
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
@click.option(
    "--until",
    "plan_until",
    type=DEADLINE,
    help="Begin no series after this time of day; what is left stays pending. Also 2026-11-22T07:00+01:00.",
)
@click.option("--index-only", is_flag=True, help="Bring the index up to date and segment nothing.")
@segmentation_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    archive_name: str,
    index_only: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Look for what is new or changed in an archive and segment what has no finding by this model yet.

    Headers are read of new and changed files only. Exit code 3 when some series failed, crashed or were refused.
    """
    if index_only and options["rules_file"]:
        raise UsageError("--select has no effect with --index-only, which segments nothing")
    submitted = scan_submission(archive_name, dry_run, **options)
    if index_only and not dry_run:
        _index(submitted, as_json)
    else:
        carry_out(ctx, submitted, dry_run, as_json)


def scan_submission(archive_name: str, dry_run: bool = False, **options: Any) -> Submission:
    """What a scan with these options does, checked; `options` are those of the command, without what it only shows.

    A dry run does not migrate the database.

    Raises:
        UsageError: no such store, archive, model, device or output type.
        StoreError: the database cannot be opened.
    """
    from vaeseg.db.archives import archive_named
    from vaeseg.paths import any_path

    opened = opened_to_watch if dry_run else opened_for_query
    with opened(options["store"], options["db"]) as database:
        archive = archive_named(database, archive_name)
    labels = any_path(archive.label_root) if archive.label_root else None
    return submission(any_path(archive.root), labels, **options)


def _index(submitted: Submission, as_json: bool) -> None:
    from vaeseg.distributed.submit import index_only

    counts = index_only(submitted)
    if as_json:
        print(json.dumps(counts))
        return
    if not counts:
        print("submitted: 'vaeseg-batch status' has the run")
        return
    print(f"files   {counts['n_listed']} listed, {counts['n_vanished']} vanished, {counts['n_waiting']} waiting")
    print(f"headers {counts['n_read']} read")
