"""What an index gives to tasks: listing trees and reading headers, with results as JSON.

A worker imports this module and what it names: neither Ray Data nor a database, so that it starts in half a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from vaeseg.config import ReadingConfig
from vaeseg.io.archive import read_files as read_headers
from vaeseg.io.dicom import SubjectKeyer, quiet_pydicom
from vaeseg.io.file_index import indexed
from vaeseg.io.listing import FoundFile, Listing, walk
from vaeseg.paths import AnyPath
from vaeseg.records import IndexedFile


def list_tree(root: AnyPath, exclude: tuple[AnyPath, ...], start: str) -> Iterator[str]:
    """Every directory from one on down, each for `listing_from_json`; a task."""
    for listing in walk(root, start, exclude):
        yield json.dumps(vars(listing) | {"files": [vars(file) for file in listing.files]})


def listing_from_json(text: str) -> Listing:
    """What `list_tree` made."""
    values = json.loads(text)
    values["files"] = tuple(FoundFile(**file) for file in values["files"])
    return Listing(**values)


def files_to_json(files: Sequence[FoundFile]) -> str:
    """An item for `read_files`."""
    return json.dumps([vars(file) for file in files])


def read_files(root: AnyPath, config: ReadingConfig, secret: bytes, item: str) -> list[str]:
    """Read the headers of some files, all for one `headers_from_json`; a task.

    Args:
        root: of the archive.
        config: bounds.
        secret: of the subject keys.
        item: from `files_to_json`.
    """
    keyer = SubjectKeyer(secret)
    with quiet_pydicom():
        records = read_headers(root, [FoundFile(**file) for file in json.loads(item)], config, keyer)
    return [json.dumps([vars(indexed(record)) for record in records])]


def headers_from_json(text: str) -> list[IndexedFile]:
    """What `read_files` made."""
    return [IndexedFile(**values) for values in json.loads(text)]
