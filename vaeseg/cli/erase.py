"""`vaeseg-batch erase`: remove everything that a store holds of one subject."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import json_option, opened_for_query, store_options
from vaeseg.errors import EXIT_OK, EXIT_USAGE

if TYPE_CHECKING:
    from vaeseg.distributed.erase import FilesLeft, Traces
    from vaeseg.paths import AnyPath


@click.command()
@click.argument("subject_key")
@click.option("--yes", is_flag=True, help="Do it; without this, only what would go is shown.")
@store_options
@json_option
@click.pass_context
def command(ctx: click.Context, /, subject_key: str, yes: bool, store: AnyPath, db: str | None, as_json: bool) -> None:
    """Remove the rows, rows of Parquet and masks of a subject, by its key (`vaeseg-batch subject-key`).

    That it was done is recorded, and to whom is not. Remove the subject's files from the archive first: what is still
    there is read again by the next scan. An erasure that was interrupted is finished by the same command.

    Exit codes: 0 erased, 1 no such subject, or a run has one of its archives, 2 without --yes, no key or no such store.
    """
    from vaeseg.distributed.erase import erase_subject, find_traces, look_for_files
    from vaeseg.io.store import Store

    with opened_for_query(store, db) as database:
        work = erase_subject if yes else find_traces
        traces = work(Store(store.absolute()), database, subject_key)
    files = look_for_files(traces.rows)
    if as_json:
        left = {"files_in_archive": files.n_there, "files_unseen": files.n_unseen}
        print(json.dumps({"erased": yes, "rows": traces.rows.counts, **traces.file_counts, **left}))
    else:
        _print(traces)
    _note_what_else_goes(traces)
    _note_what_is_left(files, yes)
    ctx.exit(EXIT_OK if yes else EXIT_USAGE)


def _print(traces: Traces) -> None:
    counts = traces.file_counts
    print("rows    " + ", ".join(f"{table} {count}" for table, count in traces.rows.counts.items()))
    print(f"parquet {counts['parquet_rows']} rows in {counts['parquet_files']} files")
    print(f"masks   {counts['mask_files']} files")


def _note_what_else_goes(traces: Traces) -> None:
    if count := traces.rows.n_findings_of_others:
        print(
            f"{count} of the findings are of series that are not this subject's by now: the next run makes again what "
            "was current of them, where the files are there",
            file=sys.stderr,
        )
    if count := traces.n_left_behind:
        print(f"{count} of the rows of Parquet are what an earlier erasure left: no finding has them", file=sys.stderr)


def _note_what_is_left(files: FilesLeft, was_erased: bool) -> None:
    if count := files.n_there:
        print(
            f"{count} files of this subject are still in the archive: the next scan reads them again", file=sys.stderr
        )
    if count := files.n_unseen:
        print(
            f"{count} files of this subject were in the archive when it was last scanned; now it cannot be listed, or "
            "is empty: what is still there is read again by the next scan",
            file=sys.stderr,
        )
    print("erased" if was_erased else "nothing was erased: add --yes to do it", file=sys.stderr)
