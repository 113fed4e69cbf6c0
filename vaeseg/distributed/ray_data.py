"""How pipelines on Ray Data show themselves: by a name on Ray's dashboard, where everybody may look, and not else."""

from __future__ import annotations

import logging

import ray.data

from vaeseg.logs import known


def presented(dataset: ray.data.Dataset, what: str) -> ray.data.Dataset:
    """Name a data set ``what-RUN_ID``, or ``what`` where this process drives no run; switch Ray's bars and logs off.

    Args:
        dataset: the last of its steps; Ray puts the name before an id of its own.
        what: word of ours, and nothing of what is worked on.

    Returns:
        The same data set.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # importing Ray Data switched them on
    dataset.context.enable_progress_bars = False
    dataset.set_name("-".join(filter(None, (what, known("run_id")))))
    return dataset
