"""One small cluster for all tests here: starting it is what takes time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vaeseg.distributed.cluster import Cluster, start_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head and one worker; tests that change or stop it come last."""
    started = start_cluster(tmp_path_factory.mktemp("cluster") / "of-tests", n_workers=1)
    yield started
    started.stop()
