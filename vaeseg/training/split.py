"""Who is trained on, who steers, and who is kept back: 80/10/10, decided by names and seed alone.

A split by subject is the default. A split by slice puts neighbours of test slices into training; it exists only to
reproduce the paper's table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vaeseg.errors import TrainingError
from vaeseg.records import IntArray
from vaeseg.training.slices import SliceSet

DEV_SHARE = 0.1
TEST_SHARE = 0.1
"""The paper's 80/10/10."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Slice indices of the three parts, ascending; together they are all slices, each once."""

    kind: Literal["subject", "slice"]
    train: IntArray
    dev: IntArray
    test: IntArray
    digest: str
    """SHA-256 over kind and the units of the three parts."""


def split_slices(slices: SliceSet, kind: Literal["subject", "slice"], seed: int) -> Split:
    """Split deterministically; adding a subject moves no more than a few others.

    Raises:
        TrainingError: fewer than three subjects (or slices), so that a part would be empty.
    """
    if kind == "slice":
        units = [f"{slices.subjects[s]}/{k}" for k, s in enumerate(slices.subject_of_slice)]
        unit_of_slice: IntArray = np.arange(len(units))
    else:
        units = list(slices.subjects)
        unit_of_slice = slices.subject_of_slice
    parts = split_units(units, seed)
    members = [np.flatnonzero(np.isin(unit_of_slice, part)) for part in parts]
    described = "\n".join([kind, *(" ".join(sorted(units[u] for u in part)) for part in parts)])
    return Split(
        kind=kind,
        train=members[0],
        dev=members[1],
        test=members[2],
        digest=hashlib.sha256(described.encode()).hexdigest(),
    )


def split_units(units: Sequence[str], seed: int) -> tuple[list[int], list[int], list[int]]:
    """Indices of train, dev and test units, in the order of a hash of seed and name.

    Raises:
        TrainingError: fewer than three units.
    """
    if len(units) < 3:
        raise TrainingError(f"{len(units)} subjects cannot be split into train, dev and test: 3 are needed")
    ranked = sorted(range(len(units)), key=lambda u: hashlib.sha256(f"{seed}:{units[u]}".encode()).digest())
    n_dev = max(1, round(DEV_SHARE * len(units)))
    n_test = max(1, round(TEST_SHARE * len(units)))
    return ranked[n_dev + n_test :], ranked[:n_dev], ranked[n_dev : n_dev + n_test]
