"""Who is trained on, who steers, and who is kept back: decided by names and seed alone, stored in nnU-Net's manner.

A split by subject is the default. A split by slice puts neighbours of test slices into training; it exists only to
reproduce the paper's table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vaeseg.errors import TrainingError
from vaeseg.io.slices import SliceIndex
from vaeseg.records import IntArray

SplitKind = Literal["subject", "slice"]
DEV_SHARE = 0.1
TEST_SHARE = 0.1
"""The paper's 80/10/10."""
MIN_UNITS = 3
"""One for each part."""
PARTS = ("train", "val", "test")
"""The keys of a fold; nnU-Net has the first two."""

Fold = dict[str, list[str]]
"""Units of each part, in the order of the data set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Slice indices of the three parts, ascending; no slice is in two."""

    kind: SplitKind
    train: IntArray
    dev: IntArray
    test: IntArray
    digest: str
    """SHA-256 over kind and the units of the three parts."""


def slice_unit(subject: str, number: int) -> str:
    """Name of a slice as a unit of its own, by its running number within its subject: ``subject/0000``."""
    return f"{subject}/{number:04d}"


def make_folds(units: Sequence[str], seed: int, n_folds: int = 0, tokens: Sequence[Sequence[str]] = ()) -> list[Fold]:
    """Split units once 80/10/10, or into k parts that take turns.

    Fold f of k has part f as val and part (f + 1) mod k as test. Units that share a token hold the same volume or
    patient under two names, and go to the same part.

    Args:
        units: names, unique, in the order of the data set.
        seed: another seed, another order.
        n_folds: 0 for 80/10/10, else at least 3.
        tokens: of each unit; empty for units that share nothing.

    Returns:
        One fold, or k; none where there are fewer different units than parts.
    """
    twins = _twins(units, tokens)
    leaders = list(twins)
    if len(leaders) < max(MIN_UNITS, n_folds):
        return []
    divided = _turns(leaders, seed, n_folds) if n_folds else [split_units(leaders, seed)]
    return [_fold(units, [[u for g in part for u in twins[leaders[g]]] for part in parts]) for parts in divided]


def split_units(units: Sequence[str], seed: int) -> tuple[list[int], list[int], list[int]]:
    """Indices of train, dev and test units, in the order of a hash of seed and name.

    Adding a unit moves no more than a few others.

    Raises:
        TrainingError: fewer than three units.
    """
    if len(units) < MIN_UNITS:
        raise TrainingError(f"{len(units)} subjects cannot be split into train, dev and test: {MIN_UNITS} are needed")
    ranked = _ranked(units, seed)
    n_dev = max(1, round(DEV_SHARE * len(units)))
    n_test = max(1, round(TEST_SHARE * len(units)))
    return ranked[n_dev + n_test :], ranked[:n_dev], ranked[n_dev : n_dev + n_test]


def split_of_fold(kind: SplitKind, fold: Mapping[str, Sequence[str]], index: SliceIndex) -> Split:
    """Slice indices of a stored fold; units that it does not name are in no part.

    Raises:
        ValueError: it is not a fold, names a unit that the data set does not have, or names one twice.
    """
    names = index.subjects if kind == "subject" else _slice_units(index)
    number = {name: n for n, name in enumerate(names)}
    parts = _checked(fold, number)
    unit_of_slice = index.subject_of_slice if kind == "subject" else np.arange(len(index))
    members = [np.flatnonzero(np.isin(unit_of_slice, [number[unit] for unit in part])) for part in parts]
    return Split(kind=kind, train=members[0], dev=members[1], test=members[2], digest=_digest(kind, parts))


def _slice_units(index: SliceIndex) -> list[str]:
    numbers = zip(index.subject_of_slice.tolist(), index.slice_of_subject.tolist(), strict=True)
    return [slice_unit(index.subjects[subject], number) for subject, number in numbers]


def _checked(fold: Mapping[str, Sequence[str]], known: Mapping[str, int]) -> list[Sequence[str]]:
    if not isinstance(fold, Mapping) or "train" not in fold or "val" not in fold:
        raise ValueError("a fold has no train or no val part")
    parts = [fold.get(part, ()) for part in PARTS]
    named = [unit for part in parts for unit in part]
    strangers = [unit for unit in named if unit not in known]
    if strangers:
        raise ValueError(f"{strangers[0]} is in a split and not in the data set")
    if len(set(named)) < len(named):
        raise ValueError("a unit is in two parts of a split")
    return parts


def _digest(kind: SplitKind, parts: Sequence[Sequence[str]]) -> str:
    described = json.dumps([kind, *(sorted(part) for part in parts)])
    return hashlib.sha256(described.encode()).hexdigest()


def _twins(units: Sequence[str], tokens: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Indices of the units that must stay together, by the name of the first of them."""
    leader = list(range(len(units)))
    first_with: dict[str, int] = {}
    for unit, own in enumerate(tokens):
        for token in own:
            here, there = leader[unit], leader[first_with.setdefault(token, unit)]
            leader = [min(here, there) if of in (here, there) else of for of in leader] if here != there else leader
    together: dict[str, list[int]] = {}
    for unit, of in enumerate(leader):
        together.setdefault(units[of], []).append(unit)
    return together


def _turns(units: Sequence[str], seed: int, n_folds: int) -> list[tuple[list[int], list[int], list[int]]]:
    ranked = _ranked(units, seed)
    parts = [ranked[start::n_folds] for start in range(n_folds)]
    return [
        (
            [u for n, part in enumerate(parts) if n not in (fold, (fold + 1) % n_folds) for u in part],
            parts[fold],
            parts[(fold + 1) % n_folds],
        )
        for fold in range(n_folds)
    ]


def _ranked(units: Sequence[str], seed: int) -> list[int]:
    return sorted(range(len(units)), key=lambda u: hashlib.sha256(f"{seed}:{units[u]}".encode()).digest())


def _fold(units: Sequence[str], parts: Sequence[Sequence[int]]) -> Fold:
    return {name: [units[u] for u in sorted(part)] for name, part in zip(PARTS, parts, strict=True)}
