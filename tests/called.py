"""Commands as a user calls them, in this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from vaeseg.cli import main


def vaeseg(directory: Path, *arguments: str) -> Result:
    """A command on the store in a directory."""
    environment = {"VAESEG_DB": "", "VAESEG_STORE": str(directory / "store")}
    return CliRunner(env=environment).invoke(main, list(arguments))
