"""Names by which Ray's dashboard shows what is at work, to everybody who may look: what is done, and in which run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ray.data

from vaeseg.logs import known


def named(dataset: ray.data.Dataset, what: str) -> ray.data.Dataset:
    """Name a data set ``what-RUN_ID``, or ``what`` where this process drives no run.

    Args:
        dataset: the last of its steps; Ray puts the name before an id of its own.
        what: word of ours, and nothing of what is worked on.

    Returns:
        The same data set.
    """
    dataset.set_name("-".join(filter(None, (what, known("run_id")))))
    return dataset


def name_of(function: Callable[..., Any]) -> str:
    """The name that a function was defined with, also where some of its arguments are given."""
    name: str = getattr(function.func if isinstance(function, partial) else function, "__name__", "function")
    return name
