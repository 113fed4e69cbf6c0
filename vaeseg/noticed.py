"""What was noticed about whom when volumes and labels were read, collected and put into sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from vaeseg.records import Warn

SHOWN_NAMES = 3
MEANINGS = {
    str(Warn.LABEL_RESAMPLED): "the label is on another grid than its image and was resampled",
    str(Warn.LABEL_COVERS_PART): "the label does not reach everywhere in its image, and counts as free of tumour there",
    str(Warn.SEVERAL_LABEL_VALUES): "the label has several values above 0, which count as one: choose one with --organ",
}
"""Of warnings about labels; those about images are those of every reading."""


def by_warning(noticed: Iterable[tuple[str, Iterable[str]]]) -> dict[str, tuple[str, ...]]:
    """From what was noticed about each name to who has each warning, in the order given.

    Args:
        noticed: name, and its warnings of `records.Warn`.
    """
    names: dict[str, list[str]] = {}
    for name, warnings in noticed:
        for warning in warnings:
            names.setdefault(str(warning), []).append(name)
    return {warning: tuple(names[warning]) for warning in sorted(names)}


def sentences(names_by_warning: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A sentence for each warning, with the first few who have it."""
    for warning, names in names_by_warning.items():
        shown = f"{', '.join(names[:SHOWN_NAMES])}{' and others' if len(names) > SHOWN_NAMES else ''}"
        yield f"{warning}: {MEANINGS.get(warning, 'see docs/reading.md')}: {len(names)} ({shown})"
