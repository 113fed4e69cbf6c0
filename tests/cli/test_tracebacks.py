from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from vaeseg.cli import main
from vaeseg.errors import StoreError
from vaeseg.logs import TextFormatter, show_uncaught_errors, without_messages

UNEXPECTED = """
import vaeseg.db.summaries
from vaeseg.cli import main

def broken(*_):
    raise KeyError("CANARYNAME")

vaeseg.db.summaries.recent_runs = broken
main()
"""


def raised() -> StoreError:
    try:
        try:
            Path("/archive/CANARYNAME").read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read: {error.strerror}") from error
    except StoreError as error:
        return error
    raise AssertionError


def test_a_traceback_has_places_and_our_own_words_alone() -> None:
    """Of the error and of what led to it: the message of an OSError quotes a path."""
    text = without_messages(raised())
    assert "CANARYNAME" not in text.replace('Path("/archive/CANARYNAME")', "")
    assert "FileNotFoundError: (message not shown" in text
    assert text.endswith("StoreError: cannot read: No such file or directory")
    assert text.count('test_tracebacks.py", line') == 2


def test_a_log_shows_errors_so_too() -> None:
    """Under the line of the record."""
    error = raised()
    record = logging.LogRecord("vaeseg", logging.DEBUG, "", 1, "series 1.2", None, (type(error), error, None))
    text = TextFormatter("%(levelname)s %(message)s").format(record)
    assert text == f"DEBUG series 1.2\n{without_messages(error)}"


def test_an_error_that_nobody_expected_is_shown_so_too(tmp_path: Path) -> None:
    """With exit code 1."""
    (tmp_path / "results.db").touch()
    done = subprocess.run(
        [sys.executable, "-c", UNEXPECTED, "status", "--store", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "KeyError" in done.stderr, "CANARYNAME" in done.stderr) == (1, True, False)


def test_debug_keeps_the_exit_code(tmp_path: Path) -> None:
    """A usage error is one with a traceback as well."""
    result = CliRunner(env={"VAESEG_DB": ""}).invoke(main, ["--debug", "status", "--store", str(tmp_path / "none")])
    assert (result.exit_code, "UsageError: no store at" in result.stderr) == (2, True)


def test_an_error_in_a_thread_is_shown_so_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's own words for it would quote the message; a thread that exits says nothing."""

    def broken() -> None:
        raise KeyError("".join(("CANARY", "NAME")))

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    show_uncaught_errors()
    shown = []
    for target in (broken, sys.exit):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
        shown.append(capsys.readouterr().err)
    assert ("KeyError: (message not shown" in shown[0], "CANARYNAME" in shown[0], shown[1]) == (True, False, "")
