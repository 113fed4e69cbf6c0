"""Whom a model has seen, and what that takes from the figures of the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from training_factories import slice_index, split

from vaeseg.io.dataset import DataSet
from vaeseg.models.checkpoint import Checkpoint
from vaeseg.models.provenance import UNKNOWN_TOKEN, Provenance
from vaeseg.training.seen import n_seen_before, remarks, seen_tokens


class Data:
    """Ten subjects with the tokens t0 to t9; the ninth is dev, the tenth test."""

    index = slice_index()


class Before:
    """A model that was trained before."""

    def __init__(self, *tokens: str, split_digest: str = "another") -> None:
        self.metadata = Provenance(data_digest="", split_digest=split_digest, seen_tokens=tokens)


DATA = cast(DataSet, Data())
OWN = tuple(f"t{n}" for n in range(9))


def before(*tokens: str, **changes: Any) -> Checkpoint:
    return cast(Checkpoint, Before(*tokens, **changes))


def test_whom_a_model_has_seen() -> None:
    """Its own train and dev subjects, and those of the model before; or that there are others, through any number."""
    assert seen_tokens(DATA, split(), None) == OWN
    assert seen_tokens(DATA, split(), before("t9", "x")) == (*OWN, "t9", "x")
    assert seen_tokens(DATA, split(), before()) == (*OWN, UNKNOWN_TOKEN)
    assert seen_tokens(DATA, split(), before("t1", UNKNOWN_TOKEN)) == (*OWN, UNKNOWN_TOKEN)


@pytest.mark.parametrize(
    ("model", "of_dev", "of_test"),
    [
        (None, 0, 0),
        (before(*OWN, split_digest="s"), 0, 0),
        (before(*OWN), 1, 0),
        (before("t0", "t9"), 0, 1),
        (before("t8", "t9", split_digest="s"), 0, 1),
        (before(), 0, 0),
    ],
    ids=["none", "same split", "chosen by its dev part", "another fold", "through the model before", "unknown"],
)
def test_who_was_seen_before(model: Checkpoint | None, of_dev: int, of_test: int) -> None:
    """A model of the same split was chosen by the same dev part, as this one is; any other may be trained on it."""
    kept_back = split()
    found = [n_seen_before(DATA, kept_back, model, part) for part in (kept_back.dev, kept_back.test)]
    assert found == [of_dev, of_test]


def test_neighbours_of_test_slices_are_the_splits_own_matter() -> None:
    """By slice every subject is in training; a model before that has the same split knows no more of them."""
    by_slice = replace(split(), train=np.arange(0, 30, 3), dev=np.arange(1, 30, 3), test=np.arange(2, 30, 3))
    everybody = (*OWN, "t9")
    assert n_seen_before(DATA, by_slice, before(*everybody, split_digest="s"), by_slice.test) == 0
    assert n_seen_before(DATA, by_slice, before(*everybody), by_slice.test) == 10


def test_what_is_said() -> None:
    """A sentence for each part, and one where nobody knows; nothing of the same split."""
    assert list(remarks(DATA, split(), before(*OWN, split_digest="s"))) == []
    of_test, of_dev = remarks(DATA, split(), before("t8", "t9"))
    assert "has seen 1 of the 1 subjects of the test part: there will be no test figures" in of_test
    assert "has seen 1 of the 1 subjects of the dev part" in of_dev
    (unknown,) = remarks(DATA, split(), before())
    assert "does not record all whom it has seen" in unknown
