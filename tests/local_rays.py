"""The Ray that tests share, and another for those who need one of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray

from vaeseg.distributed.local import start_local_ray, stop_local_ray

SHARED_CPUS = 4
"""Logical: for two workers of a training and reading."""


@contextmanager
def shared() -> Iterator[None]:
    """The fixture `ray_session`."""
    start_local_ray(SHARED_CPUS)
    yield
    stop_local_ray()


@contextmanager
def another(n_cpus: int) -> Iterator[None]:
    """One with the environment of this moment; the shared one makes room for it, and is there again after it."""
    is_shared = ray.is_initialized()
    stop_local_ray()
    start_local_ray(n_cpus)
    yield
    stop_local_ray()
    if is_shared:
        start_local_ray(SHARED_CPUS)
