"""Killed in every way there is, a run loses nothing, doubles nothing and changes nothing; `tests/kills.py` has more."""

from __future__ import annotations

from pathlib import Path

from kills import WAYS, run_kills


def test_ten_kills_lose_nothing(tmp_path: Path) -> None:
    """After each step of a commit, at random, and of worker, actor and raylet; then everything agrees."""
    tally = run_kills(tmp_path, kills=10, seed=0)
    assert tally.kills == 10
    assert set(tally.by_way) == set(WAYS)
    assert (tally.lost, tally.doubled, tally.changed, tally.disagreements) == (0, 0, 0, 0)
