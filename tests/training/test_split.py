"""Who is trained on and who is kept back."""

import numpy as np
import pytest
from training_factories import slice_set

from vaeseg.errors import TrainingError
from vaeseg.training.split import split_slices, split_units


def test_split_by_subject_keeps_subjects_whole() -> None:
    """No subject has slices in two parts, every slice is in exactly one, and the shares are 80/10/10."""
    slices = slice_set(n_subjects=20)
    split = split_slices(slices, "subject", seed=0)
    subjects = [set(slices.subject_of_slice[part]) for part in (split.train, split.dev, split.test)]
    assert [len(part) for part in subjects] == [16, 2, 2]
    assert set.union(*subjects) == set(range(20))
    assert sorted(np.concatenate([split.train, split.dev, split.test])) == list(range(60))


def test_split_by_slice_separates_neighbours() -> None:
    """The paper's split puts slices of one subject on both sides: that is its leak."""
    slices = slice_set(n_subjects=4, slices_each=25)
    split = split_slices(slices, "slice", seed=0)
    assert [len(split.train), len(split.dev), len(split.test)] == [80, 10, 10]
    assert set(slices.subject_of_slice[split.test]) & set(slices.subject_of_slice[split.train])


def test_split_depends_on_seed_and_names_alone() -> None:
    """The same seed gives the same split and digest; another seed, or the other kind, another digest."""
    slices = slice_set(n_subjects=20)
    first, again = (split_slices(slices, "subject", seed=1) for _ in range(2))
    assert first.digest == again.digest
    assert np.array_equal(first.test, again.test)
    assert len({first.digest, split_slices(slices, "subject", 2).digest, split_slices(slices, "slice", 1).digest}) == 3


def test_one_more_subject_moves_few_others() -> None:
    """A data set that grows by one subject keeps nearly everyone where they were."""
    names = [f"s{n}" for n in range(50)]
    before, after = split_units(names, 0), split_units([*names, "late"], 0)
    moved = sum(len(set(one) - set(other)) for one, other in zip(before, after, strict=True))
    assert moved <= 2


def test_three_subjects_are_the_least() -> None:
    """Every part holds someone; two subjects cannot be split."""
    assert [len(part) for part in split_units(["a", "b", "c"], 0)] == [1, 1, 1]
    with pytest.raises(TrainingError, match="2 subjects"):
        split_units(["a", "b"], 0)
