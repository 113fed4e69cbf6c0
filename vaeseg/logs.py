"""What processes have to say, on stderr: lines for people, or one JSON object a line.

The choice is in the environment, so that scans which a scheduler starts and workers of a local Ray say it the same way:
VAESEG_LOG_FORMAT is ``text`` or ``json``, VAESEG_LOG_LEVEL a level, and levels of modules: ``warning,vaeseg.db=debug``.
Tracebacks can be shown to anybody: they have places, without what others' messages may quote.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from io import TextIOBase
from typing import Any, TextIO

from vaeseg.errors import UsageError, VaesegError

FORMAT_VARIABLE = "VAESEG_LOG_FORMAT"
LEVEL_VARIABLE = "VAESEG_LOG_LEVEL"
FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error", "critical")

SAID = logging.getLogger("vaeseg.said")
"""Of what is printed on stderr where that is JSON."""

_context: dict[str, str] = {}
"""Of the process and not of a thread: it drives one run, or has one series at a time, and its threads work for that."""


def set_up_logging(*, debug: bool = False) -> None:
    """Log to stderr as the environment has it; where somebody has set up logging already, only levels are changed.

    Args:
        debug: level of what the environment gives none.

    Raises:
        UsageError: the environment names a format or a level that there is not.
    """
    log_format = os.environ.get(FORMAT_VARIABLE) or "text"
    if log_format not in FORMATS:
        raise UsageError(f"{FORMAT_VARIABLE} is {log_format!r}, and none of {', '.join(FORMATS)}")
    levels = {"": logging.DEBUG if debug else logging.WARNING, SAID.name: logging.INFO}
    levels |= parse_levels(os.environ.get(LEVEL_VARIABLE, ""))
    handler = _StderrHandler()
    handler.setFormatter(JsonFormatter() if is_json() else TextFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)


@cache
def set_up_worker_logging() -> None:
    """Once in each worker process, which calls it with every series: a node whose environment is wrong loses none."""
    try:
        set_up_logging()
    except UsageError as error:
        SAID.warning("%s", error)


def parse_levels(text: str) -> dict[str, int]:
    """Levels by logger, "" for all others, of ``LEVEL|module=LEVEL[,...]``.

    Raises:
        UsageError: there is no such level.
    """
    levels = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, level = part.rpartition("=")
        if level.lower() not in LEVELS:
            raise UsageError(f"log level {level!r} of {text!r} is none of {', '.join(LEVELS)}")
        levels[name.strip()] = logging.getLevelNamesMapping()[level.upper()]
    return levels


def is_json() -> bool:
    """Whether stderr is for machines: nothing but JSON is written to it, and no bar is drawn."""
    return os.environ.get(FORMAT_VARIABLE) == "json"


def fail(message: str) -> None:
    """Write why a command failed, which is no matter of levels."""
    if is_json():
        SAID.error("%s", message)
    else:
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


def take_over_stderr() -> None:
    """Where stderr is to be JSON, have each line that anybody prints there become a record of `SAID`."""
    sys.stderr = for_printing(sys.stderr)


def for_printing(stream: TextIO) -> TextIO:
    """What may take the place of `sys.stderr` to write to a stream: itself, or what makes records of lines."""
    return _LinesAsRecords(stream) if is_json() and not isinstance(stream, _LinesAsRecords) else stream


@contextmanager
def logged_with(**fields: str) -> Iterator[None]:
    """Have every JSON line of this process carry fields: `run_id`, `series_instance_uid`."""
    before = dict(_context)
    _context.update(fields)
    try:
        yield
    finally:
        _context.clear()
        _context.update(before)


def known(field: str) -> str | None:
    """What `logged_with` has of a field at the moment."""
    return _context.get(field)


class TextFormatter(logging.Formatter):
    """A line a record; where an error goes with it, `without_messages`."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        """Of what `sys.exc_info` gave."""
        return without_messages(ei[1])


class JsonFormatter(TextFormatter):
    """A JSON object a record: `timestamp` (UTC), `level`, `logger`, `message`, `traceback`; and of `logged_with`."""

    def format(self, record: logging.LogRecord) -> str:
        """On one line, in ASCII."""
        moment = datetime.fromtimestamp(record.created, UTC)
        fields: Mapping[str, str] = {
            "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **({"traceback": self.formatException(record.exc_info)} if record.exc_info else {}),
            **_context,
        }
        return json.dumps(fields)


class _LinesAsRecords(TextIOBase, TextIO):
    """Takes the place of `sys.stderr`; no terminal, so that nobody draws a bar on it."""

    def __init__(self, behind: TextIO) -> None:
        self.behind = behind
        self._begun = ""

    def write(self, text: str) -> int:
        """Log each line once it is complete."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, lines):
            SAID.info("%s", line)
        return len(text)

    def fileno(self) -> int:
        """Of what is behind it, for processes that are started."""
        return self.behind.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of what is behind it; who finds none looks for a binary stream."""
        return self.behind.encoding


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the moment: a bar puts something in its place that prints above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr.behind if isinstance(sys.stderr, _LinesAsRecords) else sys.stderr


def show_uncaught_errors() -> None:
    """Have errors that end this process or a thread of it because nobody catches them shown by `without_messages`."""
    sys.excepthook = lambda _kind, error, _trace: fail(without_messages(error))
    threading.excepthook = _show_thread


def _show_thread(ended: threading.ExceptHookArgs) -> None:
    if not issubclass(ended.exc_type, SystemExit):  # which ends a thread without a word, as ever
        fail(without_messages(ended.exc_value or ended.exc_type()))


def without_messages(error: BaseException) -> str:
    """Types and places of an error and of what led to it, and the messages of our own errors.

    Others' messages quote paths, rows and headers, which may name a patient.
    """
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    led_here = "" if earlier is None else f"{without_messages(earlier)}\n\nwhich led to\n\n"
    message = str(error) if isinstance(error, VaesegError) else "(message not shown: it may quote a path)"
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{led_here}Traceback (most recent call last):\n{frames}{type(error).__qualname__}: {message}"
