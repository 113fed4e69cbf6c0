"""Commands as a user calls them, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vaeseg.cli import main


@dataclass(frozen=True)
class Called:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str


InThisProcess = Callable[..., Called]
"""Takes the arguments of a command; the fixture `in_this_process` is one."""


def vaeseg(directory: Path, *arguments: str) -> Result:
    """A command on the store in a directory."""
    environment = {"VAESEG_DB": "", "VAESEG_STORE": str(directory / "store")}
    return CliRunner(env=environment).invoke(main, list(arguments))


def with_descriptors(capfd: pytest.CaptureFixture[str], *arguments: object) -> Called:
    """A command that shows a bar, which needs a standard error with a descriptor: `CliRunner` has none."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return Called(int(ended.value.code or 0), *capfd.readouterr())
