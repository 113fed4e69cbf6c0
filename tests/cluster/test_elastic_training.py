"""A training whose cluster loses a node and gains another while it runs; by hand, as Ray Train looks once a minute."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from training_factories import write_squares

from vaeseg.distributed.cluster import Cluster, running_cluster, start_cluster
from vaeseg.distributed.cluster_node import running
from vaeseg.process import title_of
from vaeseg.training.loop import INTERRUPTED

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PATIENCE_SECONDS = 300.0
TRAIN = """
import sys
from dataclasses import replace
from pathlib import Path
from training_factories import TINY, request
from vaeseg.distributed.train import Workers, train_model
from vaeseg.errors import TrainingError
from vaeseg.training.observing import Observer

address, data, output = sys.argv[1:]
out = sys.stdout  # elsewhere while Ray runs
ask = request(data, Path(output), training=replace(TINY, epochs=5000, batch_size=20))
told = Observer(on_epoch=lambda report: print(report.epoch, file=out, flush=True))
try:
    train_model(ask, Workers(fewest=1, most=2, address=address), told)
except TrainingError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A head and a worker of one CPU each, which is a training process each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        started = start_cluster(tmp_path / "c", n_workers=1, cpus_per_node=1)
        yield started
        running_cluster(started.directory).stop()


def test_workers_become_fewer_and_more_with_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """Two, one, two: every epoch is trained once and in its order, but for those that are done again from the state."""
    data = write_squares(tmp_path / "data", slices_each=10)
    output, said = tmp_path / "m.safetensors", tmp_path / "epochs"
    command = [sys.executable, "-c", TRAIN, cluster.gcs_address, data, str(output)]
    with said.open("w") as epochs:
        environment = {**os.environ, **cluster.environment}
        driver = subprocess.Popen(command, stdout=epochs, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        counts = [_after(driver, said, lambda: _n_workers(cluster) == 2)]
        cluster.kill_node(cluster.nodes[-1].name)
        counts.append(_after(driver, said, lambda: _n_workers(cluster) == 1))
        grown = cluster.add_worker()
        counts.append(_after(driver, said, lambda: _n_workers(grown) == 2))
        driver.send_signal(signal.SIGTERM)
        error = driver.communicate(timeout=PATIENCE_SECONDS)[1]
    finally:
        driver.kill()
    assert INTERRUPTED in error
    assert counts == sorted(set(counts))
    trained = [int(line) for line in said.read_text().splitlines()]
    untold = set(range(1, max(trained) + 1)) - set(trained)
    assert len(untold) <= 2, f"a resize may come between an epoch's state and its report, not {untold}"
    again = [number for before, number in pairwise(trained) if number <= before]
    assert len(again) <= 2, f"begun again at {again}"


def _n_workers(cluster: Cluster) -> int:
    return sum("RayTrainWorker" in title_of(pid) for pid in running(cluster.owns))


def _after(driver: subprocess.Popen[str], said: Path, is_so: Callable[[], bool]) -> int:
    """Wait until it is so, and five more epochs; returns how many were told by then."""
    until = time.monotonic() + PATIENCE_SECONDS
    target: int | None = None
    while target is None or len(said.read_text().splitlines()) < target:
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < until, said.read_text()[-2000:]
        if not is_so():
            target = None
        elif target is None:
            target = len(said.read_text().splitlines()) + 5
        time.sleep(0.2)
    return len(said.read_text().splitlines())
