"""What a run did, and who is told how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from vaeseg.db.summaries import Progress
from vaeseg.records import FileCount


@dataclass(kw_only=True)
class RunReport:
    """What a run did, as the summary and `--json` show it."""

    run_id: str
    status: Literal["finished", "nothing_to_do"] = "finished"
    is_under_way: bool = False
    """Whether a job of a cluster executes it and nobody waited: then nothing else is known."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Every series found, by what became of it: the values add up to `n_series`."""
    files: FileCount = field(default_factory=lambda: FileCount(found=0, in_series=0, refused=0))
    """Known at the end."""
    left_out_by_rule: dict[str, int] = field(default_factory=dict)
    """Series that the rules of the run leave out, by the name of the rule."""
    index: dict[str, int] = field(default_factory=dict)
    """What bringing the index up to date took, by `indexing.IndexReport`."""
    is_retry: bool = False
    """Whether it was about what an earlier run could not do: then `outcomes` are of those series alone."""
    unmatched_labels: int = 0
    n_slices: int = 0
    """Segmented in this run."""
    seconds: float = 0.0
    """Of the whole run."""

    @property
    def n_series(self) -> int:
        """Series found, refused ones included."""
        return sum(self.outcomes.values())

    @property
    def complete(self) -> bool:
        """Whether everything it was about was segmented, skipped or left out by rule, now or before.

        True where it is under way, and that is all that is known.
        """
        if self.is_under_way:
            return True
        lacking = ("failed", "crashed", "pending", "refused", "left_out", "not_planned")
        is_refused = self.files.refused > 0 and not self.is_retry
        return not any(self.outcomes[outcome] for outcome in lacking) and not is_refused


ProgressCallback = Callable[[Progress], None]


def no_progress(_progress: Progress) -> None:
    """A callback that shows nothing."""
