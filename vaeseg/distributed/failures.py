"""What Ray says when work fails, and how often work is tried; without Ray Data, which takes a second to import."""

from __future__ import annotations

from ray.exceptions import RayError

from vaeseg.errors import VaesegError

TASK_RETRIES = 1
"""A task whose process dies is tried once more (the kernel may have wanted memory), then its series is given up.

Ray Data's own default is to retry for ever, so that one file that kills its decoder would hang the night."""


class PipelineError(VaesegError):
    """Ray itself failed; no series is to blame."""


def last_line(error: RayError) -> str:
    """Ray's messages carry whole tracebacks; their last line names the cause."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
