"""The rules of a scan as values; `rules.parsing` makes them of what a file says, `rules.choice` decides by them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Criterion = Literal["kernel", "thinnest", "most_slices"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
KERNEL_KEYWORD = "ConvolutionKernel"


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """Why a readable series is left out."""

    rule: str
    """Its name."""
    detail: str
    """One sentence with both values; nothing in it can name a patient."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A range of numbers, its ends included.

    Raises:
        ValueError: neither end is given, one is not finite, or no number lies between them.
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        ends = [end for end in (self.low, self.high) if end is not None]
        if not ends or not all(map(math.isfinite, ends)):
            raise ValueError("a range needs min, max or both, which are finite numbers")
        if ends[0] > ends[-1]:
            raise ValueError(f"the range is empty: min {ends[0]:g} is above max {ends[-1]:g}")

    def __str__(self) -> str:
        if self.low is None:
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if self.high is None else f"{self.low:g} to {self.high:g}"

    def hold(self, number: float) -> bool:
        """Whether a number lies within; NaN does not."""
        return (self.low is None or number >= self.low) and (self.high is None or number <= self.high)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What an element of the header is to be, or not to be; exactly one of the three tests is given."""

    rule: str
    """Name under which a series is left out."""
    keyword: str
    """Of the element, such as ``BodyPartExamined``."""
    one_of: tuple[str | float, ...] = ()
    """Text is compared without regard to case, numbers as numbers."""
    regex: str | None = None
    """RE2 syntax; the whole value has to match."""
    bounds: Bounds | None = None
    leaves_out: bool = False
    """Series that meet it are left out, instead of those that do not."""


@dataclass(frozen=True, kw_only=True)
class SeriesRules:
    """Which readable series are segmented, and which one of a study."""

    min_slices: int | None = None
    slice_spacing_mm: Bounds | None = None
    """Between the slices of the volume, whatever SliceThickness says."""
    conditions: tuple[Condition, ...] = ()
    """The first that is broken names the rule."""
    prefer: tuple[Criterion, ...] = ()
    """One series of a study is taken: the best by the first criterion in which they differ."""
    kernels: tuple[str, ...] = ()
    """Best first; others come after them."""

    @property
    def keywords(self) -> tuple[str, ...]:
        """Elements that a header is asked for, each once."""
        asked = [condition.keyword for condition in self.conditions]
        return tuple(dict.fromkeys([*asked, KERNEL_KEYWORD] if "kernel" in self.prefer else asked))
