"""Asking rules about series: headers by tasks where there are many, then study by study."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from vaeseg.config import ReadingConfig
from vaeseg.db.upsert import in_batches
from vaeseg.distributed.spread import Spread, here_at_first
from vaeseg.errors import ReadingError
from vaeseg.io.dicom import quiet_pydicom
from vaeseg.io.rules import HeaderAnswer, answer_without_header, ask_header
from vaeseg.paths import AnyPath
from vaeseg.rules.choice import Candidate, broken_size, decide, passing
from vaeseg.rules.series_rules import Exclusion, SeriesRules

HEADERS_A_TASK = 100


class Question(NamedTuple):
    """A readable series that rules are asked about."""

    series_key: str
    study_instance_uid: str
    n_slices: int
    spacing_mm: float
    """Between slices."""
    path: str | None
    """Of one of its files, relative to the archive's root; None where there is no DICOM header to ask."""


@dataclass(kw_only=True)
class Answers:
    """What headers said."""

    of_series: dict[str, HeaderAnswer] = field(default_factory=dict)
    """By series key."""
    unread: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Series key to reason and detail of a header that cannot be read."""


def ask(
    root: AnyPath,
    reading: ReadingConfig,
    rules: SeriesRules,
    questions: Sequence[Question],
    check: Callable[[], None],
    spread: Spread = here_at_first,
) -> Answers:
    """Ask headers, unless the answer would change nothing: sizes leave the series out, or no rule is about headers.

    Args:
        root: of the archive.
        reading: bounds.
        rules: whose conditions count.
        questions: any number.
        check: called often; what it raises ends it.
        spread: who asks the headers.

    Raises:
        PipelineError: Ray failed.
    """
    answers = Answers(of_series={one.series_key: answer_without_header(rules) for one in questions if not one.path})
    asked = [
        (one.series_key, one.path)
        for one in questions
        if one.path and rules.keywords and not broken_size(rules, one.n_slices, one.spacing_mm)
    ]
    for told in spread(partial(ask_headers, root, rules, reading), list(in_batches(asked, HEADERS_A_TASK)), check):
        answers.of_series |= told.of_series
        answers.unread |= told.unread
    return answers


def ask_headers(
    root: AnyPath, rules: SeriesRules, config: ReadingConfig, asked: Sequence[tuple[str, str]]
) -> list[Answers]:
    """Ask the rules about some headers; a task.

    Args:
        root: of the archive.
        rules: whose conditions count.
        config: bounds.
        asked: series keys with a path each.
    """
    answers = Answers()
    with quiet_pydicom():
        for key, path in asked:
            try:
                answers.of_series[key] = ask_header(root, path, rules, config)
            except ReadingError as error:
                answers.unread[key] = (str(error.reason), error.detail)
    return [answers]


def decide_studies(
    rules: SeriesRules,
    questions: Iterable[Question],
    answers: Answers,
    skipped_anyway: Callable[[Sequence[str]], set[str]],
) -> dict[str, Exclusion]:
    """Series key to why it is left out; nothing is decided about series whose header cannot be read.

    Args:
        rules: what to go by.
        questions: whole studies, if there is a preference.
        answers: of `ask`.
        skipped_anyway: those of some series that are not segmented for another reason; a study must not lose its other
            series for them.
    """
    studies: dict[str, list[Candidate]] = defaultdict(list)
    for one in questions:
        if one.series_key not in answers.unread:
            studies[one.study_instance_uid].append(_candidate(one, answers.of_series.get(one.series_key)))
    hopeless = skipped_anyway(_contested(rules, studies.values()))
    left_out: dict[str, Exclusion] = {}
    for study in studies.values():
        left_out |= decide(rules, [replace(one, competes=one.series_key not in hopeless) for one in study])
    return left_out


def _candidate(one: Question, answer: HeaderAnswer | None) -> Candidate:
    return Candidate(
        series_key=one.series_key,
        n_slices=one.n_slices,
        spacing_mm=one.spacing_mm,
        broken=answer.broken if answer else None,
        kernels=answer.kernels if answer else (),
    )


def _contested(rules: SeriesRules, studies: Iterable[Sequence[Candidate]]) -> list[str]:
    """Series of studies in which there is something to prefer."""
    if not rules.prefer:
        return []
    rivals = [passing(rules, study) for study in studies]
    return [one.series_key for study in rivals if len(study) > 1 for one in study]
