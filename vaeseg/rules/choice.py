"""Which series of a study the rules leave out, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vaeseg.rules.header import is_text, shown
from vaeseg.rules.series_rules import KERNEL_KEYWORD, Criterion, Exclusion, SeriesRules

SPACING_STEP_MM = 0.01
"""Spacings that differ by less are the same: positions are written with about two decimals."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A readable series, as far as rules ask."""

    series_key: str
    n_slices: int
    spacing_mm: float
    """Between slices."""
    broken: Exclusion | None = None
    """The condition on its header that leaves it out."""
    kernels: tuple[str, ...] = ()
    """Values of ConvolutionKernel."""
    competes: bool = True
    """False where it will not be segmented for another reason, so that no other series may be left out for it."""


def broken_size(rules: SeriesRules, n_slices: int, spacing_mm: float) -> Exclusion | None:
    """The rule on sizes that leaves a series out, or None."""
    if rules.min_slices is not None and n_slices < rules.min_slices:
        return Exclusion(rule="min_slices", detail=f"{n_slices} slices, expected at least {rules.min_slices}")
    if rules.slice_spacing_mm is not None and not rules.slice_spacing_mm.hold(_in_steps(spacing_mm) * SPACING_STEP_MM):
        detail = f"slices {spacing_mm:.4g} mm apart, expected {rules.slice_spacing_mm} mm"
        return Exclusion(rule="slice_spacing", detail=detail)
    return None


def passing(rules: SeriesRules, study: Sequence[Candidate]) -> list[Candidate]:
    """Those that no rule on the series itself leaves out."""
    return [one for one in study if _broken(rules, one) is None]


def decide(rules: SeriesRules, study: Sequence[Candidate]) -> dict[str, Exclusion]:
    """Series key to why it is left out.

    Args:
        rules: what to go by.
        study: all readable series of one study.
    """
    left_out = {one.series_key: broken for one in study if (broken := _broken(rules, one))}
    competing = [one for one in passing(rules, study) if one.competes]
    if rules.prefer and competing:
        best = min(competing, key=lambda one: _ranks(rules, one))
        left_out |= {one.series_key: _behind(rules, one, best) for one in competing if one is not best}
    return left_out


def _broken(rules: SeriesRules, one: Candidate) -> Exclusion | None:
    return broken_size(rules, one.n_slices, one.spacing_mm) or one.broken


def _ranks(rules: SeriesRules, one: Candidate) -> tuple[list[int], str]:
    """Lower is better; series that are alike in all that is preferred go by their key."""
    return [_rank(rules, criterion, one) for criterion in rules.prefer], one.series_key


def _rank(rules: SeriesRules, criterion: Criterion, one: Candidate) -> int:
    match criterion:
        case "kernel":
            places = [n for n, kernel in enumerate(rules.kernels) if any(is_text(kernel, k) for k in one.kernels)]
            return min(places, default=len(rules.kernels))
        case "thinnest":
            return _in_steps(one.spacing_mm)
        case "most_slices":
            return -one.n_slices


def _in_steps(spacing_mm: float) -> int:
    return round(spacing_mm / SPACING_STEP_MM)


def _behind(rules: SeriesRules, one: Candidate, best: Candidate) -> Exclusion:
    for criterion in rules.prefer:
        if _rank(rules, criterion, one) != _rank(rules, criterion, best):
            detail = f"{_value(criterion, one)}, series {best.series_key} of the study has {_value(criterion, best)}"
            return Exclusion(rule=f"prefer_{criterion}", detail=detail)
    detail = f"no better than series {best.series_key} of the study, which comes first"
    return Exclusion(rule="prefer_first", detail=detail)


def _value(criterion: Criterion, one: Candidate) -> str:
    match criterion:
        case "kernel":
            return f"kernel {shown(KERNEL_KEYWORD, one.kernels) or 'not shown'}" if one.kernels else "no kernel"
        case "thinnest":
            return f"slices {one.spacing_mm:.4g} mm apart"
        case "most_slices":
            return f"{one.n_slices} slices"
