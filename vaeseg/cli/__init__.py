"""The command line, `vaeseg-batch`: one command a file, loaded only when it is called.

`--help` must answer at once, so nothing here imports torch, ray or pydicom; each command imports what it needs inside.
"""

from __future__ import annotations

import importlib
import os

import click

from vaeseg import __version__
from vaeseg.errors import VaesegError
from vaeseg.logs import (
    FORMAT_VARIABLE,
    FORMATS,
    LEVEL_VARIABLE,
    fail,
    set_up_logging,
    show_uncaught_errors,
    take_over_stderr,
    without_messages,
)

COMMANDS = {
    "archive": "Register directories to scan.",
    "cancel": "Stop a run.",
    "cluster": "Start and stop a small Ray cluster on this machine.",
    "compare-losses": "Train autoencoders with the paper's three losses and compare them.",
    "db": "Upgrade and check the database; roles.",
    "doctor": "Check everything that a night needs.",
    "erase": "Remove everything that is stored of a subject.",
    "estimate": "Tell how long a night takes and what a CT costs.",
    "evaluate": "Say how good a model is on subjects that it has not seen.",
    "exporter": "Serve metrics of the database for Prometheus.",
    "findings": "Query findings in SQL.",
    "gc": "Remove files that nothing refers to.",
    "inspect": "Read DICOM and NIfTI and report a verdict for each series.",
    "logs": "Print what the driver of a run printed on its cluster.",
    "model": "List, show, import and export models; write their cards.",
    "phantom": "Write a synthetic thorax CT archive.",
    "prepare": "Prepare a data set of slices for training.",
    "query": "Ask a question in SQL.",
    "reproduce": "Reproduce the paper's table 3 from raw data.",
    "resume": "Go on with a run that did not finish.",
    "retry": "Do again what a run could not do.",
    "scan": "Segment what is new in an archive.",
    "schedule": "Plan scans of archives.",
    "scheduler": "Start planned scans when they are due.",
    "status": "Show runs and what became of their series.",
    "subject-key": "Print the pseudonym of a patient.",
    "submit": "Segment the series of a study directory.",
    "verify": "Prove that SQL, Parquet and masks agree.",
    "train": "Train a model.",
    "trend": "Show how a subject's tumour volume changed.",
}
"""Every command with its one-line help, so that listing them loads none."""


class LazyGroup(click.Group):
    """A group whose commands live in `vaeseg.cli.<name>` as `command`, with underscores for dashes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in alphabetical order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command; None for a name that does not exist."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"vaeseg.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands from their one-line help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; our own errors become one line on stderr and the documented exit code."""
        try:
            return super().invoke(ctx)
        except VaesegError as error:
            fail(without_messages(error) if ctx.params.get("debug") else f"vaeseg-batch: {error}")
            ctx.exit(error.exit_code)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vaeseg-batch")
@click.option("--debug", is_flag=True, help="Show tracebacks and verbose logs.")
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    help=f"JSON: an object a line on stderr, and no bars. Default: ${FORMAT_VARIABLE}, or text.",
)
@click.option(
    "--log-level",
    metavar="LEVEL|MODULE=LEVEL[,...]",
    help=f"What is logged: debug, info, warning, error, critical. Default: ${LEVEL_VARIABLE}, or warning.",
)
def main(debug: bool, log_format: str | None, log_level: str | None) -> None:
    """Distributed tumour segmentation over CT archives.

    Research software: not a medical device, not for clinical use.

    Exit codes: 0 ok, 1 error, 2 usage, 3 finished but some series failed or were refused.
    """
    show_uncaught_errors()
    for variable, given in ((FORMAT_VARIABLE, log_format), (LEVEL_VARIABLE, log_level)):
        if given is not None:
            os.environ[variable] = given  # for scans that are started, and workers
    set_up_logging(debug=debug)
    take_over_stderr()
