"""What Ray says when work fails, and how often work is tried; without Ray Data, which takes a second to import."""

from __future__ import annotations

import re

from ray.exceptions import RayError, RayTaskError

from vaeseg.errors import VaesegError

TASK_RETRIES = 1
"""A task whose process dies is tried once more (the kernel may have wanted memory), then its series is given up.

Ray Data's own default is to retry for ever, so that one file that kills its decoder would hang the night."""
PLACE = re.compile(r'File "(?:.*/)?(.+)", line (\d+)')
"""In a traceback."""


class PipelineError(VaesegError):
    """Ray itself failed; no series is to blame."""


def cause_of(error: RayError) -> str:
    """What led to an error of Ray's; of an exception that is neither Ray's nor ours type and place alone.

    Its message could quote a path of the archive.
    """
    if not isinstance(error, RayTaskError) or isinstance(error.cause, VaesegError):
        return last_line(error)
    places = PLACE.findall(str(error))
    return type(error.cause).__name__ + (" at {}:{}".format(*places[-1]) if places else "")


def last_line(error: RayError) -> str:
    """Ray's messages carry whole tracebacks; their last line names the cause."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
