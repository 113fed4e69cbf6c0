"""Where weights come from, and how a file proves that neither they nor what is said of them was changed."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vaeseg import __version__

PLAIN_FIELDS = ("data_digest", "split_digest", "training", "parent_digest", "vaeseg_version", "commit")
"""Of `Provenance`, those that are text in a file too."""
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
    parent_digest: str = ""
    """Digest of the checkpoint that training started from; empty for none."""
    vaeseg_version: str = __version__
    """Of the vaeseg that trained it."""
    commit: str = ""
    """Of the source it was trained with, `+` behind it for changed files; empty where that was no git checkout."""
    seen_tokens: tuple[str, ...] = ()
    """What the subjects are recognised by (`io.identity`) that these weights were trained on or chosen by."""


def source_commit() -> str:
    """Commit of this source tree, with `+` behind it where tracked files were changed; empty for an installed copy."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    commit, changes = (_git(root, *words) for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"]))
    return "" if commit is None else commit + ("+" if changes else "")


def content_digest(described: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over metadata (but for the digest itself) and over name, type, shape and bytes of every tensor.

    The order of either does not matter. It shows changes, by accident or by hand; it is no signature.
    """
    digest = hashlib.sha256()
    known = {key: text for key, text in described.items() if key != "content_digest"}
    digest.update(json.dumps(known, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _git(root: Path, *words: str) -> str | None:
    """What git says, or None where it cannot say anything."""
    try:
        said = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()
