"""`vaeseg-batch estimate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from called import vaeseg
from click.testing import Result
from estimated import PACE
from ledger_factories import begin_run, scan, segmented, series_row

from vaeseg.cli import estimate as cli_estimate
from vaeseg.db.archives import list_archives
from vaeseg.db.runs import finish_run
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.estimate.rates import Rates
from vaeseg.estimate.shipped import BFLOAT16, FLOAT32
from vaeseg.io.store import create_store

TEN = ("--series", "10", "--slices", "100")


def estimate(directory: Path, *arguments: str) -> Result:
    return vaeseg(directory, "estimate", *arguments)


def told(directory: Path, *arguments: str) -> dict[str, Any]:
    result = estimate(directory, *arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """Five of six series were segmented on two cores: each of three slices, 0.5 + 0.25 + 0.125 s by the clock.

    Two cores had 3.125 s to read and measure in 4 s from Ray on, so that 2.4375 were the start. With the model on both,
    there were 5.625 s of work in their 3.125: a second of it took 1.8.
    """
    store = create_store(tmp_path / "store")
    database = open_database(sqlite_url(store.database_path))
    rows = [series_row(f"1.2.{n}") for n in range(6)]
    run_id = begin_run(database, scan(database, rows))
    items = plan_work(database, run_id, [row.series_key for row in rows[:5]]).pending
    commit_group(run_id, [(item, segmented(item)) for item in items], store, database)
    finish_run(
        database, run_id, "finished", {"pace": PACE | {"n_segmented": 5, "pipeline_seconds": 1.5, "busy_seconds": 2.5}}
    )
    name = list_archives(database)[0].name
    database.close()
    return name


def test_what_is_left_of_an_archive(tmp_path: Path, archive: str) -> None:
    """One series: its stages one after the other take 0.875 s; 0.1 + 4 + 2.4375 + 1 s beside them."""
    answer = told(tmp_path, "--archive", archive, "--cpus", "2")
    assert (answer["n_series"], answer["n_slices"], answer["n_new_files"]) == (1, 3, 0)
    assert answer["seconds"] == pytest.approx(7.5375 + 0.875, abs=0.001)
    assert answer["bottleneck"] == "start"
    assert answer["rates"]["source"].startswith("5 series of 1 run")


def test_the_whole_archive(tmp_path: Path, archive: str) -> None:
    """Six series: 1.5 s on the model, which has both cores, and 6.75 s of work for them, less what was waiting."""
    answer = told(tmp_path, "--archive", archive, "--all", "--cpus", "2")
    assert answer["n_series"] == 6
    assert answer["busy_seconds"] == {"model": 1.5, "cores": 1.875, "driver": 0.022}


def test_so_many_series_on_more_cores(tmp_path: Path, archive: str) -> None:
    """1000 slices: a sixth of a second of a core each to segment; all eight cores share 375 s, less the waiting."""
    answer = told(tmp_path, *TEN, "--cpus", "8")
    assert answer["busy_seconds"]["model"] == pytest.approx(1000 / 6 / 8, abs=0.001)
    assert answer["busy_seconds"]["cores"] == pytest.approx(1000 * 1.125 / 3 / 1.8 / 8, abs=0.001)
    assert answer["start_seconds"] == pytest.approx(1000 * 0.002 + 10 * 0.1 + 7.4375, abs=0.001)
    assert answer["bottleneck"] == "cores"
    text = estimate(tmp_path, *TEN, "--cpus", "8").stdout
    assert "held up   by the cores, which have most to read" in text
    assert "5 series of 1 run" in text


def test_a_cost_needs_a_price(tmp_path: Path, archive: str) -> None:
    """At 36 an hour each machine-second costs a hundredth; without a price there is a reason and no cost."""
    answer = told(tmp_path, *TEN, "--cpus", "8", "--price-per-hour", "36")
    assert answer["machine_seconds_per_ct"] == pytest.approx(answer["seconds"] / 10, abs=0.001)
    assert answer["cost_per_ct"] == pytest.approx(answer["seconds"] / 10 / 100, rel=1e-3)
    assert answer["published"] == {"machine_seconds_per_ct": 358.0, "cost_per_ct": 0.008}
    free = told(tmp_path, *TEN)
    assert (free["cost_per_ct"], free["cost_reason"]) == (None, "no --price-per-hour was given")
    assert "no cost: no --price-per-hour" in estimate(tmp_path, *TEN).stdout


def test_cores_that_feed_a_gpu(tmp_path: Path, archive: str) -> None:
    """At 10 slices/s a series of three takes 0.3 s, and 0.625 s to read and measure, of which some was waiting."""
    answer = told(tmp_path, *TEN, "--cpus", "8", "--gpus", "1", "--gpu-slices-per-second", "10")
    assert answer["cores_per_gpu"] == pytest.approx(1 + 0.625 / 1.8 / 0.3, abs=0.001)
    assert (answer["bottleneck"], answer["busy_seconds"]["model"]) == ("model", 100.0)
    assert told(tmp_path, *TEN)["cores_per_gpu_reason"] == "no GPU was asked about"


def test_before_there_is_a_store(tmp_path: Path) -> None:
    """Rates that come with vaeseg; nothing is made."""
    answer = told(tmp_path, *TEN)
    assert answer["rates"]["source"].startswith("shipped defaults of phantom-v1, measured on")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("flags", "rates"), [("fpu avx2 avx512_bf16 avx512_fp16", BFLOAT16), ("fpu avx2 avx512_bf16x", FLOAT32)]
)
def test_rates_that_come_with_vaeseg_are_those_of_such_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, rates: Rates
) -> None:
    """They lie threefold apart."""
    monkeypatch.setattr(cli_estimate, "CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbogomips\t: 5\n")
    assert told(tmp_path, *TEN)["rates"]["source"].startswith(rates.source)


def test_a_processor_is_taken_for_what_torch_takes_it_for() -> None:
    """Without loading torch, which takes a second."""
    assert cli_estimate._has_bf16() == torch.cpu._is_avx512_bf16_supported()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpus", "1", *TEN, "--cpus", "8"), "no run of phantom-v1 on a GPU"),
        (("--gpus", "2", *TEN, "--cpus", "2"), "2 cores with 2 GPUs"),
        (("--gpu-slices-per-second", "9", *TEN), "goes with --gpus"),
        (("--series", "10"), "give --archive, or --series and --slices"),
        ((), "give --archive, or --series and --slices"),
        (("--archive", "a", *TEN), "give --archive, or --series and --slices"),
        (("--all", *TEN), "--all goes with --archive"),
        (("--archive", "ward"), "no archive ward"),
        (("--series", "0", "--slices", "1"), "--series"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    tmp_path: Path, archive: str, arguments: tuple[str, ...], message: str
) -> None:
    """Usage errors, which name the option."""
    result = estimate(tmp_path, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
