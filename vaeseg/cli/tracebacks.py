"""Tracebacks that can be shown to anybody: where it went wrong, without what others' messages may quote."""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType
from typing import Any

from vaeseg.errors import VaesegError


class LogFormatter(logging.Formatter):
    """A line a record; where an error goes with it, `without_messages`."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """Of what `sys.exc_info` gave."""
        return without_messages(ei[1])


def show(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """Print an error that nobody caught; takes the place of `sys.excepthook`."""
    print(without_messages(error), file=sys.stderr)


def without_messages(error: BaseException) -> str:
    """Types and places of an error and of what led to it, and the messages of our own errors.

    Others' messages quote paths, rows and headers, which may name a patient.
    """
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    led_here = "" if earlier is None else f"{without_messages(earlier)}\n\nwhich led to\n\n"
    message = str(error) if isinstance(error, VaesegError) else "(message not shown: it may quote a path)"
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{led_here}Traceback (most recent call last):\n{frames}{type(error).__qualname__}: {message}"
