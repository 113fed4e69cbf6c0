"""`vaeseg-batch exporter` as a process of its own, and what it serves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

PATIENCE_SECONDS = 60.0
"""A machine that is busy starts a process slowly."""


class Exporter:
    """The process, and what it says."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def port(self) -> int:
        (port,) = re.findall(r"serves http://127\.0\.0\.1:(\d+)/metrics", self.said)
        return int(port)

    def scrape(self) -> dict[str, str]:
        """Each sample as it is written to its value."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def arguments(*given: str) -> list[str]:
    return [sys.executable, "-c", "from vaeseg.cli import main; main()", "exporter", "--every=0.5", *given]


@contextmanager
def exporter(log: Path, *given: str) -> Iterator[Exporter]:
    environment = os.environ | {"VAESEG_DB": "", "VAESEG_STORE": ""}
    with (
        log.open("wb") as stderr,
        subprocess.Popen(arguments("--port=0", *given), stderr=stderr, env=environment) as process,
    ):
        try:
            service = Exporter(process, log)
            service.wait_until(lambda: "serves http" in service.said)
            yield service
        finally:
            process.kill()
