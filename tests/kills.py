"""Kill runs in every way there is, resume them, and prove that nothing is lost, doubled or changed.

    python tests/kills.py --kills 100 --seed 1 --out DIR [--postgres]

A phantom archive is submitted over and over to stores of its own, with SQLite or with a database each of a PostgreSQL.
Each attempt is killed: the driver by SIGKILL after a named step of the commit or at a random moment, or a worker, the
actor or the raylet under it. It is resumed until it is done; then `verify` must agree, every series have exactly one
current finding, and every mask be byte for byte that of a run that nobody disturbed. Prints a JSON line with kills,
stores, series lost, doubled and changed; exit code 1 if any.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from postgres import start_server
from random_model import write_random_model
from sqlalchemy import func, select

from vaeseg.config import PhantomConfig, RunConfig
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.db.views import LATEST_FINDINGS
from vaeseg.distributed.commit import COMMIT_STEPS
from vaeseg.distributed.verify import verify
from vaeseg.io.store import Store
from vaeseg.phantom.dicom_writer import write_dicom_archive

logger = logging.getLogger("kills")

N_SERIES = 8
PHANTOM = PhantomConfig(n_patients=N_SERIES, seed=5, image_size=64, z_extent_mm=40.0, slice_spacing_mm=4.0)
MODEL = "random.safetensors"
"""Beside the archive."""
ATTEMPT_SECONDS = 300.0
"""A run that takes longer hangs."""
LONGEST_WAIT_SECONDS = {"driver": 15.0}
"""From the first sight of a process to its kill, at a random moment; 4 seconds for those not named."""

OF_PROCESSES = ("driver", "worker", "actor", "raylet")
"""At a random moment."""
WAYS = (*(f"driver after {step}" for step in COMMIT_STEPS), *OF_PROCESSES)


@dataclass
class Tally:
    """What came of it."""

    kills: int = 0
    by_way: dict[str, int] = field(default_factory=dict)
    stores: int = 0
    attempts: int = 0
    lost: int = 0
    doubled: int = 0
    changed: int = 0
    disagreements: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.changed or self.disagreements)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ways", default=",".join(WAYS), help="of: " + ", ".join(WAYS))
    parser.add_argument("--postgres", action="store_true", help="keep the ledger in a PostgreSQL started for this")
    parser.add_argument("--drive", nargs=4, metavar=("ARCHIVE", "STORE", "URL", "STEP"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        return drive(*arguments.drive)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    databases = PostgresDatabases(arguments.out) if arguments.postgres else sqlite_of
    tally = run_kills(arguments.out, arguments.kills, arguments.seed, arguments.ways.split(","), databases)
    sys.stdout.write(json.dumps(asdict(tally)) + "\n")
    return 0 if tally.is_clean else 1


def sqlite_of(store: Path) -> str:
    """URL of the ledger in the store itself."""
    return sqlite_url(Store(store).database_path)


class PostgresDatabases:
    """A database for each store, of one server, which ends with this process."""

    def __init__(self, out: Path) -> None:
        self._server = start_server(out.absolute() / "postgres")

    def __call__(self, store: Path) -> str:
        name = store.name.replace("-", "_")
        if f" {name} " not in self._server.psql("SELECT datname FROM pg_database;"):
            self._server.psql(f"CREATE DATABASE {name};")
        url: str = self._server.get_uri(database=name)
        return url


def run_kills(
    out: Path, kills: int, seed: int, ways: Sequence[str] = WAYS, url_of: Callable[[Path], str] = sqlite_of
) -> Tally:
    """Kill that many times, every way in turn, and check each store once it is done."""
    out.mkdir(parents=True, exist_ok=True)
    write_dicom_archive(out / "archive", PHANTOM)
    write_random_model(out / "archive" / MODEL, PHANTOM)
    wanted = _masks(_undisturbed(out, url_of))
    chance, tally = random.Random(seed), Tally()
    while tally.kills < kills:
        store = out / f"store-{tally.stores}"
        url = url_of(store)
        while not _attempt(out, store, url, _next_way(ways, kills, tally), chance, tally):
            pass
        tally.stores += 1
        _check(store, url, wanted, tally)
    return tally


def _next_way(ways: Sequence[str], kills: int, tally: Tally) -> str:
    """Every way in turn; empty once enough were killed."""
    return ways[tally.kills % len(ways)] if tally.kills < kills else ""


def _undisturbed(out: Path, url_of: Callable[[Path], str]) -> Path:
    store = out / "undisturbed"
    driver = _start(out, store, url_of(store), "")
    if driver.wait(ATTEMPT_SECONDS) != 0:
        raise RuntimeError("the undisturbed run did not finish")
    return store


def _attempt(out: Path, store: Path, url: str, way: str, chance: random.Random, tally: Tally) -> bool:
    """One run on the store, disturbed if a way is given; returns whether it finished."""
    step = f"{way.removeprefix('driver after ')}:{chance.randint(1, 3)}" if way.startswith("driver after ") else ""
    driver = _start(out, store, url, step)
    tally.attempts += 1
    family: list[psutil.Process] = []
    try:
        killed = bool(way) and not step and _kill_under(driver, way, chance, family)
        status = _wait(driver, family)
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    logger.info("%s: %s", way or "undisturbed", "killed" if killed else f"exit status {status}")
    if killed or status == -signal.SIGKILL:
        tally.kills += 1
        tally.by_way[way] = tally.by_way.get(way, 0) + 1
    return status == 0


def _start(out: Path, store: Path, url: str, step: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--drive", str(out / "archive" / "dicom"), str(store), url, step]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _kill_under(driver: subprocess.Popen[bytes], way: str, chance: random.Random, family: list[psutil.Process]) -> bool:
    """Kill the driver, or one process under it, at a random moment; False where there was none before it ended."""
    wait, until = chance.uniform(0.1, LONGEST_WAIT_SECONDS.get(way, 4.0)), float("inf")
    while driver.poll() is None:
        family[:] = _below(driver)
        victims = [psutil.Process(driver.pid)] if way == "driver" else [p for p in family if _is(p, way)]
        if victims:
            until = min(until, time.monotonic() + wait)
        if victims and time.monotonic() >= until:
            with suppress(psutil.NoSuchProcess):
                chance.choice(victims).kill()
                return True
        time.sleep(0.05)
    return False


def _is(process: psutil.Process, way: str) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        name = " ".join(process.cmdline())
        if way == "raylet":
            return "/raylet" in name.partition(" ")[0]
        return name.startswith("ray::") and ("MapWorker" in name) == (way == "actor") and "Agent" not in name
    return False


def _below(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(driver.pid).children(recursive=True)
    return []


def _wait(driver: subprocess.Popen[bytes], family: list[psutil.Process]) -> int:
    """The exit status; remembers what it leaves behind, which nobody else would end."""
    until = time.monotonic() + ATTEMPT_SECONDS
    while (status := driver.poll()) is None:
        if time.monotonic() > until:
            driver.kill()
            raise RuntimeError(f"a run took longer than {ATTEMPT_SECONDS} s")
        family[:] = _below(driver) or family
        time.sleep(0.05)
    return status


def _check(store_root: Path, url: str, wanted: dict[str, str], tally: Tally) -> None:
    store = Store(store_root)
    with closing(open_database(url, create=False)) as database:
        tally.disagreements += len(list(verify(store, database)))
        statement = select(LATEST_FINDINGS.c.series_id, LATEST_FINDINGS.c.outcome, func.count()).group_by(
            LATEST_FINDINGS.c.series_id, LATEST_FINDINGS.c.outcome
        )
        with database.read() as connection:
            current = connection.execute(statement).all()
    segmented = [row for row in current if row.outcome == "segmented"]
    tally.lost += N_SERIES - len(segmented)
    tally.doubled += sum(row.count > 1 for row in segmented)
    found = _masks(store_root)
    tally.changed += sum(found.get(name) != digest for name, digest in wanted.items())
    tally.doubled += len(found.keys() - wanted.keys())


def _masks(store: Path) -> dict[str, str]:
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.glob("masks/*/*/*/*"))
    }


def drive(archive: str, store: str, url: str, step: str) -> int:
    """Submit, as a process that can be killed; after the n-th `name` of a step ``name:n`` it kills itself."""
    from vaeseg.distributed import committer
    from vaeseg.distributed.submit import Submission, submit

    name, _, number = step.partition(":")
    left = int(number or 0)
    really = committer.commit_group

    def reached(reached_name: str) -> None:
        nonlocal left
        left -= reached_name == name
        if name and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def commit_group(*arguments: object) -> int:
        return really(*arguments, step=reached)  # type: ignore[arg-type]

    committer.commit_group = commit_group  # type: ignore[assignment]
    submission = Submission(
        study_dir=Path(archive),
        store_root=Path(store),
        database_url=url,
        model=Path(MODEL).stem,
        config=RunConfig(model_path=str(Path(archive).parent / MODEL), commit_every=1, retry=True),
    )
    return 0 if submit(submission).complete else 3


if __name__ == "__main__":
    sys.exit(main())
