"""Who is trained on and who is kept back."""

import numpy as np
import pytest

from vaeseg.errors import TrainingError
from vaeseg.io.slices import SliceIndex
from vaeseg.io.splits import make_folds, slice_unit, split_of_fold, split_units

NAMES = [f"s{n}" for n in range(20)]


def index_of(names: list[str], slices_each: int = 3) -> SliceIndex:
    n = len(names) * slices_each
    return SliceIndex(
        subjects=tuple(names),
        subject_of_slice=np.repeat(np.arange(len(names)), slices_each),
        slice_of_subject=np.tile(np.arange(slices_each), len(names)),
        series=tuple(names),
        series_of_slice=np.repeat(np.arange(len(names)), slices_each),
        slice_of_series=np.tile(np.arange(slices_each), len(names)),
        spacing_mm=np.ones((n, 3), dtype=np.float32),
        tumour_pixels=np.zeros(n, dtype=np.int32),
        has_labels=False,
        tokens=tuple((name,) for name in names),
    )


def test_split_by_subject_keeps_subjects_whole() -> None:
    """No subject has slices in two parts, every slice is in exactly one, and the shares are 80/10/10."""
    index = index_of(NAMES)
    split = split_of_fold("subject", make_folds(NAMES, seed=0)[0], index)
    subjects = [set(index.subject_of_slice[part]) for part in (split.train, split.dev, split.test)]
    assert [len(part) for part in subjects] == [16, 2, 2]
    assert set.union(*subjects) == set(range(20))
    assert sorted(np.concatenate([split.train, split.dev, split.test])) == list(range(60))


def test_split_by_slice_separates_neighbours() -> None:
    """The paper's split puts slices of one subject on both sides: that is its leak."""
    names = NAMES[:4]
    units = [slice_unit(name, k) for name in names for k in range(25)]
    index = index_of(names, slices_each=25)
    split = split_of_fold("slice", make_folds(units, seed=0)[0], index)
    assert [len(split.train), len(split.dev), len(split.test)] == [80, 10, 10]
    assert set(index.subject_of_slice[split.test]) & set(index.subject_of_slice[split.train])


def test_split_depends_on_seed_and_names_alone() -> None:
    """The same seed gives the same split and digest; another seed another one."""
    index = index_of(NAMES)
    first, again, other = (split_of_fold("subject", make_folds(NAMES, seed)[0], index) for seed in (1, 1, 2))
    assert first.digest == again.digest
    assert np.array_equal(first.test, again.test)
    assert first.digest != other.digest


def test_ranking_is_what_earlier_models_were_trained_with() -> None:
    """The order by hash of seed and name is fixed: changing it would move test subjects of old models into training."""
    assert split_units(NAMES, 0)[1:] == ([14, 11], [15, 13])


def test_one_more_subject_moves_few_others() -> None:
    """A data set that grows by one subject keeps nearly everyone where they were."""
    names = [f"s{n}" for n in range(50)]
    before, after = split_units(names, 0), split_units([*names, "late"], 0)
    moved = sum(len(set(one) - set(other)) for one, other in zip(before, after, strict=True))
    assert moved <= 2


def test_three_subjects_are_the_least() -> None:
    """Every part holds someone; two subjects cannot be split, and k folds need k subjects."""
    assert [len(part) for part in make_folds(["a", "b", "c"], 0)[0].values()] == [1, 1, 1]
    assert make_folds(["a", "b"], 0) == []
    assert make_folds(NAMES[:4], 0, n_folds=5) == []
    with pytest.raises(TrainingError, match="2 subjects"):
        split_units(["a", "b"], 0)


def test_folds_take_turns() -> None:
    """Every subject is tested once and steers once; fold f tests what fold f + 1 steers by; train is the rest."""
    folds = make_folds(NAMES, seed=0, n_folds=5)
    assert len(folds) == 5
    for part in ("val", "test"):
        assert sorted(unit for fold in folds for unit in fold[part]) == sorted(NAMES)
    for fold, following in zip(folds, folds[1:] + folds[:1], strict=True):
        assert fold["test"] == following["val"]
        assert sorted(fold["train"] + fold["val"] + fold["test"]) == sorted(NAMES)


def test_copies_of_a_subject_stay_together() -> None:
    """The same volume under three names, or linked through a shared patient, is never on both sides of a split."""
    tokens = [(name,) for name in NAMES]
    tokens[3], tokens[11], tokens[17] = ("s3", "patient"), ("s3",), ("patient",)
    for seed in range(20):
        for fold in [*make_folds(NAMES, seed, tokens=tokens), *make_folds(NAMES, seed, 4, tokens)]:
            homes = {part for part, units in fold.items() for name in ("s3", "s11", "s17") if name in units}
            assert len(homes) == 1
            assert sorted(unit for units in fold.values() for unit in units) == sorted(NAMES)


def test_without_copies_tokens_change_nothing() -> None:
    """Tokens only ever join what is the same."""
    assert make_folds(NAMES, 0, tokens=[(name,) for name in NAMES]) == make_folds(NAMES, 0)


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        ({"train": ["s0"], "val": ["s1"], "test": ["stranger"]}, "stranger is in a split"),
        ({"train": ["s0"], "val": ["s0"], "test": []}, "two parts"),
        ({"train": ["s0"]}, "no train or no val"),
        (["s0"], "no train or no val"),
    ],
)
def test_stored_folds_are_checked(fold: object, message: str) -> None:
    """A splits file may be edited by hand: a subject on both sides, or one that does not exist, is an error."""
    with pytest.raises(ValueError, match=message):
        split_of_fold("subject", fold, index_of(NAMES))  # type: ignore[arg-type]


def test_nnunets_own_file_has_no_test_part() -> None:
    """A fold with train and val alone leaves the test part empty, and who is not named is left out."""
    split = split_of_fold("subject", {"train": ["s0", "s2"], "val": ["s1"]}, index_of(NAMES))
    assert split.train.tolist() == [0, 1, 2, 6, 7, 8]
    assert split.dev.tolist() == [3, 4, 5]
    assert split.test.tolist() == []
