"""Data sets in the layout of the Medical Segmentation Decathlon: `dataset.json` beside `imagesTr` and `labelsTr`.

    {"labels": {"0": "background", "1": "cancer"},
     "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, ...],
     "test": ["./imagesTs/b.nii.gz", ...]}

Only the list is read here; images are opened by `io.nifti`. nnU-Net writes `labels` the other way round, name to value;
both are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaeseg.errors import UsageError
from vaeseg.paths import printable

MAX_LIST_BYTES = 16 * 2**20
"""A `dataset.json` of a hundred thousand images; more is not read."""
MAX_LABEL_DIGITS = 9
"""Of a label value: voxels hold no more."""


@dataclass(frozen=True, kw_only=True)
class MsdItem:
    """One volume; each file of an MSD data set is its own subject."""

    name: str
    """File name without its suffixes, printable, unique in the data set."""
    image: Path
    label: Path | None
    """None for images that come without one (`imagesTs`)."""


def read_msd(root: Path) -> list[MsdItem]:
    """Every image of a data set, training items first, in the order of `dataset.json`.

    Raises:
        UsageError: no readable `dataset.json`, no images, an entry that is not as above, a path that leads out of
            `root` (links included), or two images of one name.
    """
    listed = _read_list(root)
    items = [_item(root, entry) for entry in _entries(listed)]
    if not items:
        raise UsageError(f"{root / 'dataset.json'} lists no images")
    names: set[str] = set()
    for item in items:
        if item.name in names:
            raise UsageError(f"{root / 'dataset.json'} lists two images of the name {item.name}")
        names.add(item.name)
    return items


def read_label_names(root: Path) -> dict[int, str] | None:
    """Value to name of each label, the background included; None if `dataset.json` has no such list.

    An entry that is not one value and one name, such as nnU-Net's regions of several labels, is left out.

    Raises:
        UsageError: no readable `dataset.json`, or `labels` is no object.
    """
    listed = _read_list(root).get("labels")
    if listed is None:
        return None
    if not isinstance(listed, dict):
        raise UsageError("labels in dataset.json is no object")
    names: dict[int, str] = {}
    for key, given in listed.items():
        number, name = (given, key) if isinstance(given, int) else (key, given)
        value = label_value(str(number))
        if value is not None and isinstance(name, str):
            names[value] = name
    return names


def label_value(text: str) -> int | None:
    """The label value that a text is; None where it is no whole number, or one that no voxel holds."""
    return int(text) if text.isdecimal() and len(text) <= MAX_LABEL_DIGITS else None


def _read_list(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    try:
        with path.open("rb") as file:
            text = file.read(MAX_LIST_BYTES + 1)
        listed = json.loads(text) if len(text) <= MAX_LIST_BYTES else None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; is this an MSD data set?") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON") from error
    if not isinstance(listed, dict):
        raise UsageError(f"{path} is not a JSON object of at most {MAX_LIST_BYTES} bytes")
    return listed


def _entries(listed: dict[str, Any]) -> Iterator[object]:
    for part in ("training", "test"):
        entries = listed.get(part, [])
        if not isinstance(entries, list):
            raise UsageError(f"{part} in dataset.json is no list")
        yield from entries


def _item(root: Path, entry: object) -> MsdItem:
    match entry:
        case str(image):
            label = None
        case {"image": str(image), "label": str(label)}:
            pass
        case {"image": str(image)}:
            label = None
        case _:
            raise UsageError(f"dataset.json has the entry {str(entry)[:80]!r}, expected an image and its label")
    image_path = _inside(root, image)
    return MsdItem(
        name=printable(image_path.name.removesuffix(".gz").removesuffix(".nii")),
        image=image_path,
        label=None if label is None else _inside(root, label),
    )


def _inside(root: Path, relative: str) -> Path:
    """As it is listed: what a link leads to often has no telling name."""
    path = root / relative
    try:
        target = path.resolve()
    except (OSError, ValueError) as error:
        raise UsageError(f"dataset.json names the impossible path {relative[:80]!r}") from error
    if target.is_relative_to(root.resolve()):
        return path
    if path.is_symlink() and ".." not in path.parts:
        raise UsageError(f"{relative[:80]!r} is a link that leads outside {root}: copy the file, or link it with cp -l")
    raise UsageError(f"dataset.json names {relative[:80]!r}, which lies outside {root}")
