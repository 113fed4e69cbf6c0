"""`vaeseg-batch gc`: remove what nothing refers to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import opened_for_query, store_options

if TYPE_CHECKING:
    from vaeseg.paths import AnyPath


@click.command()
@click.option("--dry-run", is_flag=True, help="Name them only.")
@store_options
def command(dry_run: bool, store: AnyPath, db: str | None) -> None:
    """Remove part files, masks and empty directories of masks that no finding names, such as a killed run leaves.

    Masks of older findings stay.

    A file that vaeseg would not write, such as a copy, stays: 'vaeseg-batch verify' names it.

    Exit code 2 while a run is alive: its masks have no findings yet. A scan that begins meanwhile is refused.
    """
    from vaeseg.distributed.verify import collect_garbage
    from vaeseg.io.store import Store

    with opened_for_query(store, db) as database:
        removed = collect_garbage(Store(store.absolute()), database, dry_run)
    for path in removed:
        print(path)
    print(f"{len(removed)} files {'would be ' * dry_run}removed")
