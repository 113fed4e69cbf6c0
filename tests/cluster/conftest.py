"""One small cluster for all tests here: starting it is what takes time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vaeseg.distributed.cluster import Cluster, start_cluster


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of `store/`, which the head node of `cluster` knows as its store."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[Cluster]:
    """A head and one worker; tests that change or stop it come last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAESEG_STORE", str(place / "store"))
        for name in ("VAESEG_DB", "VAESEG_DB_FILE"):
            patch.delenv(name, raising=False)
        started = start_cluster(tmp_path_factory.mktemp("cluster") / "of-tests", n_workers=1)
    yield started
    started.stop()
