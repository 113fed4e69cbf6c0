"""Killed in every way there is, a run loses nothing, doubles nothing and changes nothing; `tests/kills.py` has more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from kills import WAYS, run_kills


@pytest.mark.parametrize("ways", [("driver", "actor"), pytest.param(WAYS, marks=pytest.mark.slow)])
def test_kills_lose_nothing(ways: Sequence[str], tmp_path: Path) -> None:
    """Of driver and actor at random; in the long form of worker and raylet too, and after each step of a commit.

    Then everything agrees. What a commit that ends after any of its steps leaves is tested without a Ray as well
    (`tests/distributed/test_commit.py`).
    """
    tally = run_kills(tmp_path, kills=len(ways), seed=0, ways=ways)
    assert tally.kills == len(ways)
    assert set(tally.by_way) == set(ways)
    assert (tally.lost, tally.doubled, tally.changed, tally.disagreements) == (0, 0, 0, 0)
