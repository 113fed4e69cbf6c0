"""Which series of a study is taken."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vaeseg.rules.choice import Candidate, decide
from vaeseg.rules.series_rules import Bounds, Exclusion, SeriesRules


def candidate(key: str, **values: Any) -> Candidate:
    return Candidate(**{"series_key": key, "n_slices": 100, "spacing_mm": 2.0, **values})


def left_out(rules: SeriesRules, *study: Candidate) -> dict[str, str]:
    return {key: exclusion.rule for key, exclusion in decide(rules, study).items()}


def test_sizes_on_their_bounds() -> None:
    """On the bound a series is taken; spacing is compared to a hundredth of a millimetre."""
    rules = SeriesRules(min_slices=40, slice_spacing_mm=Bounds(low=0.5, high=3.0))
    study = (
        candidate("on", n_slices=40, spacing_mm=3.0000001),
        candidate("few", n_slices=39),
        candidate("thick", spacing_mm=3.01),
        candidate("thin", spacing_mm=0.49),
    )
    assert decide(rules, study) == {
        "few": Exclusion(rule="min_slices", detail="39 slices, expected at least 40"),
        "thick": Exclusion(rule="slice_spacing", detail="slices 3.01 mm apart, expected 0.5 to 3 mm"),
        "thin": Exclusion(rule="slice_spacing", detail="slices 0.49 mm apart, expected 0.5 to 3 mm"),
    }


def test_without_a_preference_all_that_pass_are_taken() -> None:
    """However many a study has."""
    assert left_out(SeriesRules(min_slices=1), candidate("a"), candidate("b")) == {}


def test_the_first_criterion_that_differs_decides() -> None:
    """The sentence has both values."""
    rules = SeriesRules(prefer=("kernel", "thinnest", "most_slices"), kernels=("LUNG", "B50f"))
    study = (
        candidate("sharp", kernels=("b50F",), spacing_mm=1.0),
        candidate("lung-thick", kernels=("LUNG",), spacing_mm=5.0),
        candidate("lung-thin", kernels=("other", "lung"), spacing_mm=1.251, n_slices=90),
        candidate("lung-thin-more", kernels=("LUNG",), spacing_mm=1.249, n_slices=91),
        candidate("soft", kernels=("B30f",), spacing_mm=0.5),
        candidate("none", spacing_mm=0.5),
        candidate("name", kernels=("DOE^JANE",)),
    )
    best = "series lung-thin-more of the study has"
    assert {key: exclusion.detail for key, exclusion in decide(rules, study).items()} == {
        "sharp": f"kernel b50F, {best} kernel LUNG",
        "lung-thick": f"slices 5 mm apart, {best} slices 1.249 mm apart",
        "lung-thin": f"90 slices, {best} 91 slices",
        "soft": f"kernel B30f, {best} kernel LUNG",
        "none": f"no kernel, {best} kernel LUNG",
        "name": f"kernel not shown, {best} kernel LUNG",
    }
    assert set(left_out(rules, *study).values()) == {"prefer_kernel", "prefer_thinnest", "prefer_most_slices"}


def test_series_that_are_alike_go_by_their_key() -> None:
    """One is taken, and always the same."""
    rules = SeriesRules(prefer=("thinnest",))
    study = (candidate("1.2.4"), candidate("1.2.3"))
    assert left_out(rules, *study) == left_out(rules, *study[::-1]) == {"1.2.4": "prefer_first"}


def test_a_series_is_only_left_out_for_one_that_is_taken() -> None:
    """Not for one that the rules leave out themselves, nor for one that is skipped anyway."""
    rules = SeriesRules(min_slices=50, prefer=("thinnest",))
    broken = Exclusion(rule="chest", detail="no chest")
    study = (
        candidate("a", spacing_mm=1.0, n_slices=3),
        candidate("b", spacing_mm=1.0, broken=broken),
        candidate("c", spacing_mm=1.0, competes=False),
        candidate("d", spacing_mm=2.0),
        candidate("e", spacing_mm=3.0),
    )
    assert left_out(rules, *study) == {"a": "min_slices", "b": "chest", "e": "prefer_thinnest"}


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([1.0, 2.0]), st.booleans(), st.booleans()), max_size=6))
def test_a_preference_takes_one_series_of_those_that_pass(study: list[tuple[int, float, bool, bool]]) -> None:
    """Exactly one if there is any that competes, and every other that competes is left out by preference."""
    broken = Exclusion(rule="chest", detail="no chest")
    candidates = [
        candidate(str(n), n_slices=n_slices, spacing_mm=mm, broken=broken if is_broken else None, competes=competes)
        for n, (n_slices, mm, is_broken, competes) in enumerate(study)
    ]
    found = decide(SeriesRules(prefer=("most_slices", "thinnest")), candidates)
    rivals = {one.series_key for one in candidates if one.broken is None and one.competes}
    assert len(rivals - found.keys()) == min(1, len(rivals))
    assert {key for key, exclusion in found.items() if exclusion.rule == "chest"} == {
        one.series_key for one in candidates if one.broken
    }
    assert found.keys() <= rivals | {one.series_key for one in candidates if one.broken}
