"""Bar, `status` and exporter show the same numbers of a run, in the middle of it and at its end."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from archives import compressed_slice
from called import vaeseg
from exporting import Exporter, exporter

from vaeseg.io.store import create_store

PATIENCE_SECONDS = 240.0

STOPS_AFTER_EACH = """
import sys, time
from dataclasses import replace
from pathlib import Path
from vaeseg.cli import main
from vaeseg.distributed import committer, runs

class Waiting(committer.Committer):
    def __init__(self, database, store, run_id, config, *rest):
        super().__init__(database, store, run_id, replace(config, commit_every=1), *rest)

    def _show(self, n_committed):
        super()._show(n_committed)
        while not Path(f"{sys.argv[1]}-{self.n_done}").exists():
            time.sleep(0.05)

runs.Committer = Waiting
main(sys.argv[2:])
"""
"""`vaeseg-batch` with a run that commits each series alone, and waits for a file before it goes on."""

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BAR = re.compile(r"(\d+)/(\d+)\s+series\s+(\d+)\s+slices\s.*?(\d+)\s+failed")


class Shown(NamedTuple):
    """What one of them says of a run."""

    done: int
    planned: int
    slices: int
    failed: int


class Run:
    """A run in a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int, go: Path) -> None:
        self.process, self._go = process, go
        self._written = ""
        threading.Thread(target=self._read, args=(terminal,), daemon=True).start()

    def _read(self, terminal: int) -> None:
        while True:
            try:
                self._written += os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # the last who could write has ended
                return

    @property
    def bar(self) -> list[Shown]:
        """Everything that the bar has shown."""
        return [Shown(*map(int, found)) for found in BAR.findall(ESCAPES.sub("", self._written))]

    def go_on(self, n_done: int) -> None:
        """Past the commit of so many series."""
        self._go.with_name(f"{self._go.name}-{n_done}").touch()


@contextmanager
def run_in_terminal(go: Path, arguments: list[str]) -> Iterator[Run]:
    terminal, inside = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "VAESEG_DB": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STOPS_AFTER_EACH, str(go), *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=inside, env=environment) as process:
        os.close(inside)
        try:
            yield Run(process, terminal, go)
        finally:
            process.terminate()
    os.close(terminal)


def of_exporter(service: Exporter) -> Shown | None:
    """None while no run is in progress."""
    samples = service.scrape()
    names = ("series_done", "series_planned", "slices_segmented", "series_failed")
    values = [samples.get(f'vaeseg_run_{name}{{archive="ward",kind="segment"}}') for name in names]
    return None if None in values else Shown(*(int(float(str(value))) for value in values))


def of_status(tmp_path: Path) -> dict[str, Any]:
    """Of the only run."""
    result = vaeseg(tmp_path, "status", "--json")
    assert result.exit_code == 0, result.stderr
    (run,) = json.loads(result.stdout)
    return dict(run)


def wait_until(is_so: Callable[[], bool], run: Run) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, run.bar[-1:]
        assert run.process.poll() is None, "the run has ended"
        time.sleep(0.1)


@pytest.fixture
def study(archive: Path, tmp_path: Path) -> Path:
    """Three series, one of which cannot be decoded."""
    broken = compressed_slice(archive, tmp_path / "study")
    broken.write_bytes(broken.read_bytes()[:-2000])
    return tmp_path / "study"


@pytest.mark.slow
def test_bar_status_and_exporter_agree(study: Path, model_path: Path, tmp_path: Path) -> None:
    """After each of three series, and at the end; the exporter's numbers only rise, and never above what is planned."""
    store = create_store(tmp_path / "store")
    assert vaeseg(tmp_path, "archive", "add", "ward", "--root", str(study)).exit_code == 0
    arguments = ["scan", "ward", "--store", str(store.root), "--model", str(model_path), "--stable-for", "0"]
    seen: list[Shown] = []

    def shows(n_done: int) -> bool:
        shown = of_exporter(service)
        seen.extend([shown] if shown else [])
        return shown is not None and shown.done == n_done and bool(run.bar) and run.bar[-1].done == n_done

    with exporter(tmp_path / "log", "--store", str(store.root)) as service:
        with run_in_terminal(tmp_path / "go", arguments) as run:
            for n_done in (1, 2, 3):
                wait_until(lambda n_done=n_done: shows(n_done), run)  # type: ignore[misc]
                status = of_status(tmp_path)
                outcomes = status["outcomes"]
                assert seen[-1] == run.bar[-1]
                assert seen[-1][:2] == (n_done, 3) == (sum(outcomes.values()), n_done + status["pending"])
                assert seen[-1].failed == outcomes["failed"] + outcomes["crashed"]
                run.go_on(n_done)
            assert run.process.wait(PATIENCE_SECONDS) == 3  # one series could not be read
        status = of_status(tmp_path)
        assert status["status"] == "finished"
        assert status["outcomes"] == {"segmented": 2, "skipped": 0, "failed": 1, "crashed": 0}
        service.wait_until(lambda: of_exporter(service) is None)
        samples = service.scrape()
        for outcome, count in status["outcomes"].items():
            name = f'vaeseg_run_last_series{{archive="ward",kind="segment",outcome="{outcome}"}}'
            assert samples[name] == f"{float(count)}"
        assert samples['vaeseg_series_current{archive="ward",category="segmented"}'] == "2.0"
    assert seen == sorted(seen)
    assert all(shown.done <= shown.planned for shown in seen)
