"""`vaeseg-batch archive`: which directories are scanned."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from vaeseg.cli.options import DIRECTORY, json_option, opened_for_query, store_options

if TYPE_CHECKING:
    from vaeseg.db.archives import Archive, IndexCounts
    from vaeseg.paths import AnyPath


@click.group()
def command() -> None:
    """Register directories to scan.

    An archive keeps an index of its files; findings refer to it, so that removing an archive deletes nothing.
    """


@command.command()
@click.argument("name")
@click.option(
    "--root",
    required=True,
    type=DIRECTORY,
    help="Directory of DICOM or NIfTI, searched whole.",
)
@click.option(
    "--label-root",
    type=DIRECTORY,
    help="Directory of label volumes named <series_instance_uid>.nii.gz.",
)
@store_options
def add(name: str, root: AnyPath, label_root: AnyPath | None, store: AnyPath, db: str | None) -> None:
    """Register an archive, or give it other labels; makes the store where there is none."""
    from contextlib import closing

    from vaeseg.db.archives import add_archive, overlapping
    from vaeseg.db.session import open_database, sqlite_url
    from vaeseg.io.store import create_store

    labels = str(label_root.resolve()) if label_root else None
    made = create_store(store)
    with closing(open_database(db or sqlite_url(made.database_path))) as database:
        add_archive(database, name, str(root.resolve()), labels)
        others = overlapping(database, str(root.resolve()))
    if others:
        click.echo(
            f"note: {name} overlaps with {', '.join(others)}: a series that lies in both is segmented for each, and "
            "has a finding in each",
            err=True,
        )
    print(f"archive {name} is registered; next: vaeseg-batch scan {name} --store {store}")


@command.command("list")
@json_option
@store_options
def list_all(as_json: bool, store: AnyPath, db: str | None) -> None:
    """List the archives."""
    from vaeseg.db.archives import list_archives

    with opened_for_query(store, db) as database:
        archives = list_archives(database)
    if as_json:
        print(json.dumps([_values(archive) for archive in archives]))
        return
    for archive in archives:
        print(f"{archive.name}  {archive.root}")


@command.command()
@click.argument("name")
@json_option
@store_options
def show(name: str, as_json: bool, store: AnyPath, db: str | None) -> None:
    """Show an archive and what its index holds."""
    from vaeseg.db.archives import archive_named, index_counts

    with opened_for_query(store, db) as database:
        archive = archive_named(database, name)
        counts = index_counts(database, archive.id)
    if as_json:
        print(json.dumps(_values(archive) | asdict(counts)))
    else:
        _print(archive, counts)


@command.command()
@click.argument("name")
@store_options
def remove(name: str, store: AnyPath, db: str | None) -> None:
    """Scan an archive no longer; its index and findings stay, and come back when its root is added again."""
    from vaeseg.db.archives import remove_archive

    with opened_for_query(store, db) as database:
        remove_archive(database, name)
    print(f"archive {name} is removed; its findings are kept")


def _values(archive: Archive) -> dict[str, str | None]:
    return {"name": archive.name, "root": archive.root, "label_root": archive.label_root}


def _print(archive: Archive, counts: IndexCounts) -> None:
    refused = ", ".join(f"{reason} {count}" for reason, count in counts.refused_by_reason.items())
    print(f"archive {archive.name}")
    print(f"root    {archive.root}")
    print(f"labels  {archive.label_root or '-'}")
    print(f"files   {counts.n_files}, {counts.n_files_missing} more are missing")
    print(
        f"series  {counts.n_readable} readable, {sum(counts.refused_by_reason.values())} refused"
        + f" ({refused})" * bool(refused)
    )
