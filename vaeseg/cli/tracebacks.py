"""Errors that end a command, shown so that anybody can see them."""

from __future__ import annotations

from types import TracebackType

from vaeseg.logs import fail, without_messages


def show(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """Print an error that nobody caught; takes the place of `sys.excepthook`."""
    fail(without_messages(error))
