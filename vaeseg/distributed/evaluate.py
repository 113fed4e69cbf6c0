"""An evaluation from what was asked for to its figures and its report: the same for the command and for a job.

No Ray in here: the process that is asked does it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from vaeseg.config import Precision
from vaeseg.errors import UsageError
from vaeseg.evaluation.cases import choose_cases
from vaeseg.inference.case_pictures import picture_cases
from vaeseg.inference.evaluation import EvaluatedModel, Evaluation, evaluate, load_model, result_json
from vaeseg.inference.evaluation_sources import DataSource, MsdSource, Part, Source
from vaeseg.inference.report import Report, make_report_directory, write_report
from vaeseg.io.dataset import open_data_set
from vaeseg.io.msd import read_label_names
from vaeseg.io.splits import SplitKind
from vaeseg.models.files import resolve_model
from vaeseg.training.preparation import organ_value


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What is evaluated on what: a prepared data set, or a directory in MSD layout."""

    model: str
    """Path of its file, or the name of one that comes with vaeseg."""
    data: str | None = None
    """Path or URL of a prepared data set."""
    split: Part | None = None
    """Part of the data set; None: test."""
    by: SplitKind | None = None
    """Unit of the split; None: subject."""
    fold: int | None = None
    """Which of the splits; None: the first."""
    msd_dir: str | None = None
    organ: str | None = None
    """Label value, or its name in `dataset.json`; None: any above 0."""
    report_dir: str | None = None
    """Where the report goes; None: there is none."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "auto"
    seed: int = 0
    """Of the confidence intervals."""
    allow_overlap: bool = False
    """Evaluate on subjects that the model was trained on."""


@dataclass(frozen=True, kw_only=True)
class EvaluationListener:
    """Who is told how it goes."""

    on_start: Callable[[int], None] = lambda n_subjects: None
    """With the number of subjects, or of volumes in a directory."""
    on_subject: Callable[[int], None] = lambda n_slices: None
    on_evaluated: Callable[[Evaluation, dict[str, Any]], None] = lambda evaluation, result: None
    """With `evaluate --json`'s object, before the report is made: no trouble there costs the figures."""


def evaluate_as_asked(request: EvaluationRequest, listener: EvaluationListener) -> dict[str, Any]:
    """Evaluate, and write the report; returns the object that `evaluate --json` prints.

    Raises:
        UsageError: no such model or data, options that do not go together, or subjects that the model was trained on.
        CheckpointError: the model cannot be used.
        StoreError: the report cannot be written.
    """
    source = _source(request)
    if request.report_dir is not None:
        make_report_directory(Path(request.report_dir))
    model = load_model(resolve_model(request.model), request.device, request.precision)
    listener.on_start(len(source))
    evaluation = evaluate(model, source, allow_overlap=request.allow_overlap, on_subject=listener.on_subject)
    result = result_json(evaluation, request.seed)
    listener.on_evaluated(evaluation, result)
    if request.report_dir is not None:
        _write_report(model, source, evaluation, request.seed, Path(request.report_dir))
    return result


def _source(request: EvaluationRequest) -> Source:
    if (request.data is None) == (request.msd_dir is None):
        raise UsageError("give either --data or --msd-dir")
    if request.msd_dir is not None:
        _refuse_beside("--msd-dir", split=request.split, by=request.by, fold=request.fold)
        root = Path(request.msd_dir)
        return MsdSource(root, None if request.organ is None else organ_value(request.organ, read_label_names(root)))
    _refuse_beside("--data", organ=request.organ)
    data = open_data_set(str(request.data))
    return DataSource(data, request.split or "test", request.by or "subject", request.fold or 0)


def _refuse_beside(option: str, **others: object) -> None:
    """Options that belong to the other source."""
    for name, given in others.items():
        if given is not None:
            raise UsageError(f"--{name} does not go with {option}")


def _write_report(model: EvaluatedModel, source: Source, evaluation: Evaluation, seed: int, directory: Path) -> None:
    pictures = picture_cases(model, source, evaluation.table, choose_cases(evaluation.table))
    now = datetime.now().astimezone()
    write_report(Report(evaluation=evaluation, seed=seed, pictures=pictures, created_at=now), directory)
