"""`vaeseg-batch verify`: do SQL, Parquet and mask files agree?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import json_option, opened_for_query, store_options
from vaeseg.errors import EXIT_ERROR, EXIT_OK

if TYPE_CHECKING:
    from vaeseg.paths import AnyPath


@click.command()
@click.argument("run_id", required=False)
@store_options
@json_option
@click.pass_context
def command(ctx: click.Context, /, run_id: str | None, store: AnyPath, db: str | None, as_json: bool) -> None:
    """Prove that SQL, Parquet parts and mask files agree, in both directions and by digest.

    Without RUN_ID all runs are looked at, and files that no run knows are looked for.

    Exit codes: 0 they agree, 1 they do not (each disagreement is named), 2 no such run or store.
    """
    from vaeseg.db.summaries import run_summary
    from vaeseg.distributed.verify import verify
    from vaeseg.io.store import Store

    found = []
    with opened_for_query(store, db) as database:
        if run_id is not None:
            run_summary(database, run_id)
        for disagreement in verify(Store(store.absolute()), database, run_id):
            found.append(asdict(disagreement))
            if not as_json:
                print(f"{disagreement.kind}: {disagreement.where}: {disagreement.detail}")
    if as_json:
        print(json.dumps({"agree": not found, "disagreements": found}))
    elif not found:
        print("SQL, Parquet and masks agree")
    ctx.exit(EXIT_ERROR if found else EXIT_OK)
