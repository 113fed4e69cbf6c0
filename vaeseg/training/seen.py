"""Whom weights have seen, of the subjects that a training measures on too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vaeseg.io.dataset import DataSet
from vaeseg.io.splits import Split
from vaeseg.models.checkpoint import Checkpoint
from vaeseg.models.provenance import UNKNOWN_TOKEN, are_all_seen
from vaeseg.records import IntArray


def seen_tokens(data: DataSet, split: Split, parent: Checkpoint | None) -> tuple[str, ...]:
    """Tokens of every subject that has a part in weights: trained on or chosen by, here or in the model before.

    Args:
        data: what is trained on.
        split: of these data.
        parent: the model that training starts from.
    """
    inherited = () if parent is None else parent.metadata.seen_tokens or (UNKNOWN_TOKEN,)
    return tuple(sorted({*_own_tokens(data, split), *inherited}))


def n_seen_before(data: DataSet, split: Split, parent: Checkpoint | None, indices: IntArray) -> int:
    """Subjects of some slices that the model before has seen, though this split keeps them apart from training.

    A model before that has the very same split was trained on its train part and no more, like this one.
    """
    if parent is None:
        return 0
    seen = set(parent.metadata.seen_tokens)
    if parent.metadata.split_digest == split.digest:
        seen -= _own_tokens(data, split)
    return sum(not seen.isdisjoint(data.index.tokens[subject]) for subject in _subjects(data, indices))


def remarks(data: DataSet, split: Split, parent: Checkpoint) -> Iterator[str]:
    """What the figures of a training are not, because of the model that it starts from; a sentence each."""
    if not are_all_seen(parent.metadata.seen_tokens):
        yield (
            "the model to start from does not record all whom it has seen: dev and test figures may be of subjects "
            "that it was trained on"
        )
    for part, indices, outcome in (
        ("test", split.test, "there will be no test figures"),
        ("dev", split.dev, "dev figures, which choose the epoch, are not those of unseen subjects"),
    ):
        if n_seen := n_seen_before(data, split, parent, indices):
            yield (
                f"the model to start from has seen {n_seen} of the {len(_subjects(data, indices))} subjects of the "
                f"{part} part: {outcome}; take the split that it was trained on, or another model"
            )


def _own_tokens(data: DataSet, split: Split) -> set[str]:
    subjects = _subjects(data, np.concatenate([split.train, split.dev]))
    return {token for subject in subjects for token in data.index.tokens[subject]}


def _subjects(data: DataSet, indices: IntArray) -> list[int]:
    subjects: list[int] = np.unique(data.index.subject_of_slice[indices]).tolist()
    return subjects
