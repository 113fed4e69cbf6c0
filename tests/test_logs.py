"""What is logged can be read by machines, names runs and series, and shows nothing private."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from factories import write_series

from vaeseg.cli import main
from vaeseg.errors import UsageError
from vaeseg.logs import JsonFormatter, logged_with, parse_levels

COMMAND = "import sys; from vaeseg.cli import main; sys.argv[0] = 'vaeseg-batch'; main()"

LOGGED = """
import logging, sys
import click
from vaeseg.logs import set_up_logging, take_over_stderr
set_up_logging()
take_over_stderr()
logging.getLogger("vaeseg.db.session").debug("asked")
logging.getLogger("vaeseg.io").info("not asked")
logging.getLogger("another").error("%s", 'with "quotes"\\nand a second line')
print("printed\\nby anybody", file=sys.stderr)
print("unfinished", end="", file=sys.stderr)
print(" line", file=sys.stderr)
click.echo("echoed", err=True)
"""

STAGE = """
import sys
from pathlib import Path
from vaeseg.config import ReadingConfig
from vaeseg.distributed import reading
from vaeseg.distributed.stage import StageConfig
from vaeseg.distributed.rows import planned_row
from vaeseg.io.archive import scan_archive

def broken(*_):
    raise KeyError("CANARYNAME")

reading.read_volume = broken
(verdict,) = scan_archive(Path(sys.argv[1]), ReadingConfig()).verdicts
row = planned_row(7, verdict.manifest, sys.argv[1], "", "masks")
config = StageConfig(run_id="20261122T010000-abcdef", store_root="", model="", model_digest="", image_size=8,
    output_types=(), reading=ReadingConfig())
reading.read(row, config)
print(verdict.manifest.ref.series_instance_uid)
"""

BAR = """
import logging
from vaeseg.cli.segmentation import progress_bar
from vaeseg.db.summaries import Progress
from vaeseg.logs import set_up_logging
set_up_logging()
with progress_bar() as show:
    show(Progress(series_done=1, series_total=2, slices_done=3, failures=0))
    logging.getLogger("vaeseg").warning("the database is away")
"""


def run(program: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


def records(stderr: str) -> list[dict[str, Any]]:
    """Every line, each of which must be JSON."""
    return [json.loads(line) for line in stderr.splitlines()]


def test_a_record_is_an_object_with_what_is_known() -> None:
    """Time in UTC, level, logger, message; run and series while they are known; a traceback without others' words."""
    try:
        Path("/archive/CANARYNAME").read_bytes()
    except OSError as error:
        raised = error
    trace = (type(raised), raised, raised.__traceback__)
    record = logging.LogRecord("vaeseg.io", logging.WARNING, "", 1, "series %d", (3,), trace)
    record.created = 1_700_000_000.25
    with logged_with(run_id="20261122T010000-abcdef"), logged_with(series_instance_uid="1.2.3"):
        shown = json.loads(JsonFormatter().format(record))
    assert "FileNotFoundError: (message not shown" in shown.pop("traceback")
    assert shown == {
        "timestamp": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "vaeseg.io",
        "message": "series 3",
        "run_id": "20261122T010000-abcdef",
        "series_instance_uid": "1.2.3",
    }
    assert not {"run_id", "series_instance_uid"} & set(json.loads(JsonFormatter().format(record)))


def test_levels_are_those_of_all_or_of_a_module() -> None:
    """In any order and spelling; what is no level is refused by name."""
    assert parse_levels("") == {}
    assert parse_levels("info") == {"": logging.INFO}
    assert parse_levels("vaeseg.db=debug, WARNING") == {"vaeseg.db": logging.DEBUG, "": logging.WARNING}
    for wrong in ("loud", "vaeseg.db=", "vaeseg.db"):
        with pytest.raises(UsageError, match=rf"of '{wrong}' is none of debug, info"):
            parse_levels(wrong)


def test_all_of_stderr_is_json() -> None:
    """What modules log at their level, and what anybody prints, a record a line."""
    done = run(LOGGED, VAESEG_LOG_FORMAT="json", VAESEG_LOG_LEVEL="error,vaeseg.db=debug")
    shown = [(record["level"], record["logger"], record["message"]) for record in records(done.stderr)]
    assert shown == [
        ("debug", "vaeseg.db.session", "asked"),
        ("error", "another", 'with "quotes"\nand a second line'),
        ("info", "vaeseg.said", "printed"),
        ("info", "vaeseg.said", "by anybody"),
        ("info", "vaeseg.said", "unfinished line"),
        ("info", "vaeseg.said", "echoed"),
    ]


def test_text_is_as_it_was() -> None:
    """Warnings of all modules, and what is printed."""
    done = run(LOGGED, VAESEG_LOG_FORMAT="text", VAESEG_LOG_LEVEL="")
    assert done.stderr.splitlines()[0] == 'ERROR another: with "quotes"'
    assert done.stderr.splitlines()[2:] == ["printed", "by anybody", "unfinished line", "echoed"]


@pytest.mark.parametrize("where", ["option", "environment"])
def test_a_command_that_fails_says_so_in_json(tmp_path: Path, where: str) -> None:
    """As an error, with its exit code; stdout has nothing of it."""
    options = ["--log-format", "json"] if where == "option" else []
    environment = {} if where == "option" else {"VAESEG_LOG_FORMAT": "json"}
    done = run(COMMAND, *options, "status", "--store", tmp_path / "none", VAESEG_DB="", **environment)
    (record,) = records(done.stderr)
    assert (done.returncode, done.stdout, record["level"]) == (2, "", "error")
    assert record["message"].startswith("vaeseg-batch: no store at")


def test_a_format_or_level_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    """In the environment as well."""
    for environment in ({"VAESEG_LOG_FORMAT": "xml"}, {"VAESEG_LOG_LEVEL": "loud"}):
        result = CliRunner(env={"VAESEG_DB": "", **environment}).invoke(main, ["status", "--store", str(tmp_path)])
        assert result.exit_code == 2
        assert f"'{next(iter(environment.values()))}'" in result.stderr


def test_a_stage_names_run_and_series(tmp_path: Path) -> None:
    """In the process of a worker, which has only its environment; the error's words are not shown."""
    write_series(tmp_path / "study")
    done = run(STAGE, tmp_path / "study", VAESEG_LOG_FORMAT="json", VAESEG_LOG_LEVEL="")
    (record,) = records(done.stderr)
    assert (record["run_id"], record["series_instance_uid"]) == ("20261122T010000-abcdef", done.stdout.strip())
    assert record["message"].startswith("internal error in work item 7: KeyError at ")
    assert "CANARYNAME" not in done.stderr


def test_a_node_whose_environment_is_wrong_loses_no_series(tmp_path: Path) -> None:
    """It says what is wrong, and the stage goes on to what it has to say."""
    write_series(tmp_path / "study")
    done = run(STAGE, tmp_path / "study", VAESEG_LOG_FORMAT="xml")
    assert (done.returncode, "VAESEG_LOG_FORMAT is 'xml'" in done.stderr) == (0, True)
    assert "internal error in work item 7" in done.stderr


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_bar_and_a_log_line_leave_each_other_whole(log_format: str) -> None:
    """On a terminal: the line stands alone above the bar; with JSON there is no bar."""
    terminal, its_end = pty.openpty()
    environment = {**os.environ, "VAESEG_LOG_FORMAT": log_format, "VAESEG_LOG_LEVEL": "", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", BAR], stderr=its_end, env=environment)
    os.close(its_end)
    shown = ""
    try:
        while read := os.read(terminal, 4096):
            shown += read.decode()
    except OSError:
        pass  # the other end is closed
    assert process.wait(timeout=60) == 0
    os.close(terminal)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip("\r") for line in shown.split("\n")]
    if log_format == "json":
        assert [json.loads(line)["message"] for line in filter(None, lines)] == ["the database is away"]
    else:
        assert "WARNING vaeseg: the database is away" in [line.rpartition("\r")[2] for line in lines]
        assert "1/2 series  3 slices" in "\n".join(lines)
