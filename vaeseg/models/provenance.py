"""Where weights come from."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vaeseg import __version__

PLAIN_FIELDS = ("data_digest", "split_digest", "training", "parent_digest", "vaeseg_version", "commit")
"""Of `Provenance`, those that are text in a file too."""
UNKNOWN_TOKEN = "unknown"
"""Among the tokens of weights that come from a model which does not say whom it has seen; no subject has it."""
GIT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where weights come from; stored beside them."""

    data_digest: str
    """Of the training data set."""
    split_digest: str
    """Of who was trained on, and who was kept back."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Figures measured when training ended; None where undefined."""
    training: str = "{}"
    """The `TrainingConfig` as JSON."""
    workers: int | None = None
    """How many trained together, at the end; a step had as many batches. None where it was not recorded."""
    computed_in: str | None = None
    """Numbers that the network computed in at the end of its training, where `precision` of it leaves that to the
    hardware: `float32` or `bfloat16`, or both where workers have unlike hardware. None where it was not recorded."""
    parent_digest: str = ""
    """Digest of the checkpoint that training started from; empty for none."""
    vaeseg_version: str = __version__
    """Of the vaeseg that trained it."""
    commit: str = ""
    """Of the source it was trained with, `+` behind it for changed files; empty where that was no git checkout."""
    seen_tokens: tuple[str, ...] = ()
    """What the subjects are recognised by (`io.identity`) that these weights were trained on or chosen by."""


def are_all_seen(tokens: Collection[str]) -> bool:
    """Whether the tokens of a model are those of everybody whom it has seen."""
    return bool(tokens) and UNKNOWN_TOKEN not in tokens


def source_commit() -> str:
    """Commit of this source tree, with `+` behind it where tracked files were changed; empty for an installed copy."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    commit, changes = (_git(root, *words) for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"]))
    return "" if commit is None else commit + ("+" if changes else "")


def _git(root: Path, *words: str) -> str | None:
    """What git says, or None where it cannot say anything."""
    try:
        said = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()
