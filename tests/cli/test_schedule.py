"""`schedule add|list|remove`, and how a scan of it is started."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from called import vaeseg
from click.testing import CliRunner

from vaeseg.cli.options import DEADLINE
from vaeseg.cli.scan import command as scan
from vaeseg.cli.scan_arguments import given_options, options_of_scan
from vaeseg.db.schedules import Schedule, scan_arguments
from vaeseg.distributed.scan_process import ScanProcess

NIGHTLY = ("schedule", "add", "nightly", "--archive", "ward", "--cron", "0 1 * * *")


def listed(ward: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(vaeseg(ward, "schedule", "list", "--json").stdout)
    return rows


def test_a_schedule_is_added_listed_and_removed(ward: Path) -> None:
    """With what it was given; the next time in its own zone and in UTC."""
    options = ("--window", "19:00-07:00", "--timezone", "Europe/Berlin", "--stable-for", "10m", "--retry")
    added = vaeseg(ward, *NIGHTLY, *options)
    assert (added.exit_code, added.stderr) == (0, "")
    (row,) = listed(ward)
    local, utc = (datetime.fromisoformat(str(row.pop(name))) for name in ("next_local", "next_utc"))
    assert (local, local.hour, local.utcoffset() != utc.utcoffset()) == (utc, 1, True)
    assert row == {
        "name": "nightly",
        "archive": "ward",
        "cron": "0 1 * * *",
        "timezone": "Europe/Berlin",
        "window": "19:00-07:00",
        "options": {"--stable-for": "10m", "--retry": True},
        "last_run_id": None,
        "last_status": None,
        "last_pending": None,
    }
    assert "archive ward, 0 1 * * * in 19:00-07:00 Europe/Berlin" in vaeseg(ward, "schedule", "list").stdout
    assert vaeseg(ward, "schedule", "remove", "nightly").exit_code == 0
    assert listed(ward) == []


@pytest.mark.parametrize(
    "options",
    [
        ("--cron", "0 25 * * *"),
        ("--window", "7-19"),
        ("--timezone", "Mars/Olympus"),
        ("--archive", "no-such-archive"),
        ("--model", "no-such-model"),
        ("--output-type", "gif"),
        ("--stable-for", "soon"),
        ("--limit", "0"),
        ("--organ", "1"),
        ("--until", "07:00"),
    ],
)
def test_what_cannot_work_at_night_is_refused_by_day(ward: Path, options: tuple[str, str]) -> None:
    """Exit code 2 and the value, also for what only `scan` knows; nothing is added."""
    result = vaeseg(ward, *NIGHTLY, *options)
    assert result.exit_code == 2
    assert options[0 if options[0] == "--until" else 1] in result.stderr
    assert "Traceback" not in result.stderr
    assert listed(ward) == []


def test_unknown_schedules_are_named(ward: Path) -> None:
    """In every command that takes a name; a name that is taken, too."""
    for name in ("remove", "run-now"):
        result = vaeseg(ward, "schedule", name, "nope")
        assert (result.exit_code, "no schedule nope" in result.stderr) == (2, True)
    assert vaeseg(ward, *NIGHTLY).exit_code == 0
    again = vaeseg(ward, *NIGHTLY)
    assert (again.exit_code, "there is a schedule nightly" in again.stderr) == (2, True)


def test_a_removed_archive_is_not_planned(ward: Path) -> None:
    """The schedule stays and says why nothing comes of it."""
    vaeseg(ward, *NIGHTLY)
    vaeseg(ward, "archive", "remove", "ward")
    assert listed(ward)[0]["next_utc"] is None
    assert "its archive is removed" in vaeseg(ward, "schedule", "list").stdout


def test_a_model_file_is_found_from_any_directory(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is kept as an absolute one, a name as a name."""
    from vaeseg.models.files import resolve_model

    shutil.copy(resolve_model("phantom-v1"), ward / "mine.safetensors")
    monkeypatch.chdir(ward)
    assert vaeseg(ward, *NIGHTLY, "--model", "mine.safetensors").exit_code == 0
    assert listed(ward)[0]["options"] == {"--model": str(ward / "mine.safetensors")}
    vaeseg(ward, "schedule", "remove", "nightly")
    assert vaeseg(ward, *NIGHTLY, "--model", "phantom-v1").exit_code == 0
    assert listed(ward)[0]["options"] == {"--model": "phantom-v1"}


def test_run_now_scans_at_once_with_its_options(ward: Path) -> None:
    """Here and now; the run is the schedule's last, and its next time stays what it was."""
    vaeseg(ward, *NIGHTLY, "--stable-for", "0", "--index-only")
    before = listed(ward)[0]
    result = vaeseg(ward, "schedule", "run-now", "nightly", "--json")
    assert (result.exit_code, json.loads(result.stdout)["n_read"]) == (0, 6)
    (run,) = json.loads(vaeseg(ward, "status", "--json").stdout)
    assert listed(ward) == [before | {"last_run_id": run["run_id"], "last_status": "finished", "last_pending": 0}]


def test_an_option_that_scan_will_have_needs_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths become absolute, flags that negate and options given twice are handed on as they were typed."""

    @click.command()
    @click.option("--select", type=click.Path(exists=True))
    @click.option("--tag", multiple=True, type=int)
    @click.option("--fast/--no-fast", default=True)
    @click.option("--db")
    def future_scan(**_: object) -> None: ...

    @click.command()
    @options_of_scan(future_scan, without=())
    @click.pass_context
    def add(ctx: click.Context, **_: object) -> None:
        click.echo(json.dumps(given_options(ctx)))

    monkeypatch.chdir(tmp_path)
    Path("rules.toml").touch()
    typed = ["--select", "rules.toml", "--tag", "01", "--tag", "2", "--no-fast"]
    options = json.loads(CliRunner().invoke(add, typed).stdout)
    assert options == {"--select": str(tmp_path / "rules.toml"), "--tag": ["01", "2"], "--no-fast": True}
    assert scan_arguments(options) == [f"--select={tmp_path}/rules.toml", "--tag=01", "--tag=2", "--no-fast"]
    assert CliRunner().invoke(add, ["--tag", "x"]).exit_code == 2
    assert CliRunner().invoke(add, ["--db", "x"]).exit_code == 2


def test_a_scan_process_tells_no_secret(tmp_path: Path) -> None:
    """The password of the database is in its environment, not on its command line, and it ends when it is asked to."""
    moment = datetime(2026, 11, 22, tzinfo=UTC)
    schedule = Schedule(
        id=1, name="nightly", archive_id=1, archive="ward", is_archive_removed=False, cron="0 1 * * *", timezone="UTC",
        window=None, options={"--retry": True}, created_at=moment, handled_until=moment, last_run_id=None,
    )  # fmt: skip
    process = ScanProcess(
        schedule, moment, store_root=tmp_path / "store", database_url="postgresql://writer:s3cret@192.0.2.1/vaeseg"
    )
    pid = process.driver.rpartition("; ")[2].partition(" ")[0]
    try:
        while not (Path("/proc") / pid / "cmdline").read_bytes():
            time.sleep(0.01)  # the kernel fills it in a moment after the program has begun
        line, environment = (
            (Path("/proc") / pid / name).read_bytes().decode().split("\0") for name in ("cmdline", "environ")
        )
    finally:
        process.ask_to_stop()
    assert line[4:-1] == ["scan", "ward", "--retry", "--until=2026-11-22T00:00:00+00:00", "--json"]
    assert "VAESEG_DB=postgresql://writer:s3cret@192.0.2.1/vaeseg" in environment
    assert f"VAESEG_STORE={tmp_path / 'store'}" in environment
    assert process._process.wait(30) != 0


def test_the_end_of_a_scan_is_the_next_such_time() -> None:
    """Of this machine's clock, within a day; or a moment that says its offset."""
    now = datetime.now(UTC)
    for hour in range(24):
        moment = DEADLINE.convert(f"{hour:02}:30", None, None)
        assert now < moment <= now + timedelta(hours=25)
        assert (moment.hour, moment.minute) == (hour, 30)
    assert DEADLINE.convert("2026-11-22T07:00+01:00", None, None) == datetime(2026, 11, 22, 6, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "7", "25:00", "07:60", "morning"])
def test_what_is_no_end_of_a_scan_is_refused(text: str) -> None:
    """With the forms there are."""
    with pytest.raises(click.UsageError, match="07:00"):
        scan.make_context("scan", ["ward", f"--until={text}"])


@pytest.mark.parametrize("text", ["2026-11-30T07:00", "2026-11-30"])
def test_a_moment_needs_a_time_zone(text: str) -> None:
    """That is what is wrong with it, and what is said."""
    with pytest.raises(click.UsageError, match=f"{text} is without a time zone"):
        scan.make_context("scan", ["ward", f"--until={text}"])
