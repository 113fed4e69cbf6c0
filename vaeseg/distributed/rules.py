"""Following the rules that an operator gave a scan (`--select`): what was decided holds, the rest is decided now.

`distributed.selection` has the rules that every run follows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from vaeseg.canonical import digest
from vaeseg.config import RunConfig
from vaeseg.db.exclusions import Standing, record_decisions, runs_with_rules, sample_paths, standings
from vaeseg.db.session import Database
from vaeseg.db.upsert import in_batches
from vaeseg.db.work import DONE, LEFT_OUT, RunKey
from vaeseg.distributed.asking import Question, ask, decide_studies
from vaeseg.distributed.indexing import MANIFESTS_AT_ONCE, IndexJob, manifests_of
from vaeseg.distributed.selection import skip_by_rule
from vaeseg.distributed.spread import here
from vaeseg.errors import StoreError
from vaeseg.io.manifest import SeriesManifest
from vaeseg.paths import AnyPath
from vaeseg.rules.parsing import parse_rules
from vaeseg.rules.series_rules import SeriesRules


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What rules say of the series of an archive."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """Series key to the rule that leaves it out; series that are done already are not among them."""
    unread: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Series key to reason and detail of a header that cannot be read: the series fails."""


def rules_of(config: RunConfig) -> SeriesRules | None:
    """The rules that a run was given.

    Raises:
        StoreError: they were written by another version, which knows other rules.
    """
    if config.rules is None:
        return None
    try:
        return parse_rules(config.rules)
    except ValueError as error:
        raise StoreError(f"the rules of this run cannot be followed: {error}") from error


def rules_digest(config: RunConfig) -> str | None:
    """64 hex digits by which decisions are known; None without rules."""
    rules = rules_of(config)
    return None if rules is None else digest(rules)


def select_series(
    database: Database,
    job: IndexJob,
    run: RunKey,
    config: RunConfig,
    waiting_studies: Collection[str],
    check: Callable[[], None],
) -> Selection:
    """Recall what the rules of a run decided, decide the rest, and record it.

    Args:
        database: of the ledger.
        job: the archive, whose index is up to date.
        run: who asks.
        config: with the rules.
        waiting_studies: nothing is decided about these yet.
        check: called often; what it raises ends it.

    Raises:
        StoreError: the rules are not known to this version, or the database fails.
        PipelineError: Ray failed.
    """
    rules = rules_of(config)
    if rules is None:
        return Selection()
    of_rules = digest(rules)
    found = standings(database, run.archive_id, run.model_digest, run.config_digest, of_rules)
    series = [one for one in found if one.study_instance_uid not in waiting_studies]
    undecided = _undecided(database, series, config)
    to_decide = _with_their_studies(series, undecided) if rules.prefer else undecided
    questions = _questions(database, to_decide)
    answers = ask(job.root, job.reading, rules, questions, check)

    def skipped_anyway(series_keys: Sequence[str]) -> set[str]:
        return _skipped_anyway(database, job, config, series_keys, check)

    left_out = decide_studies(rules, questions, answers, skipped_anyway)
    is_open = {one.series_key: one for one in series if one.state not in DONE}
    decided = [one for one in to_decide if one.series_key in is_open and one.series_key not in answers.unread]
    record_decisions(database, run.run_id, of_rules, decided, left_out)
    anew = {one.series_key for one in to_decide}
    recalled = {key: one.rule for key, one in is_open.items() if one.rule and key not in anew}
    rule_of = recalled | {key: exclusion.rule for key, exclusion in left_out.items() if key in is_open}
    return Selection(left_out=rule_of, unread=answers.unread)


def left_out_of_scan(root: AnyPath, manifests: Mapping[str, SeriesManifest], config: RunConfig) -> dict[str, str]:
    """Series key to the rule that would leave it out, for a preview: nothing is recalled and nothing recorded."""
    rules = rules_of(config)
    if rules is None:
        return {}
    questions = [
        Question(
            series_key=key,
            study_instance_uid=manifest.ref.study_instance_uid,
            n_slices=manifest.shape[0],
            spacing_mm=manifest.geometry.spacing_mm[0],
            path=manifest.files[0].path if manifest.kind == "dicom" else None,
        )
        for key, manifest in manifests.items()
    ]
    answers = ask(root, config.segmentation.reading, rules, questions, lambda: None, spread=here)

    def skipped_anyway(series_keys: Sequence[str]) -> set[str]:
        return {key for key in series_keys if skip_by_rule(manifests[key], config.segmentation.selection)}

    left_out = decide_studies(rules, questions, answers, skipped_anyway)
    return {key: exclusion.rule for key, exclusion in left_out.items()}


def _undecided(database: Database, series: Sequence[Standing], config: RunConfig) -> list[Standing]:
    """Series that these rules were never asked about, or whose header could not be read when they were.

    What is done, or failed and is not tried again, need not be asked about; and what was planned by a run that followed
    the same rules has passed them, if it has not failed since.
    """
    planned_by = sorted({one.run_id for one in series if one.run_id})
    same = runs_with_rules(database, planned_by, config.rules or {})

    def is_open(one: Standing) -> bool:
        if one.state in LEFT_OUT:
            return config.retry or one.is_tried_again
        return one.state not in DONE and one.run_id not in same

    return [one for one in series if one.rule is None and is_open(one)]


def _with_their_studies(series: Sequence[Standing], undecided: Sequence[Standing]) -> list[Standing]:
    """All series of studies that have an undecided one, or whose preferred series is gone."""
    studies: dict[str, list[Standing]] = defaultdict(list)
    for one in series:
        studies[one.study_instance_uid].append(one)
    open_studies = {one.study_instance_uid for one in undecided}
    return [one for uid, study in studies.items() if uid in open_studies or _has_lost(study) for one in study]


def _has_lost(study: Sequence[Standing]) -> bool:
    """Whether every series is left out, and one of them for another that is not there any more."""
    is_empty = all(one.rule and one.state not in DONE for one in study)
    return is_empty and any((one.rule or "").startswith("prefer_") for one in study)


def _questions(database: Database, series: Sequence[Standing]) -> list[Question]:
    paths = sample_paths(database, [one.series_id for one in series if "/" in one.group_key])
    return [
        Question(
            series_key=one.series_key,
            study_instance_uid=one.study_instance_uid,
            n_slices=one.n_slices,
            spacing_mm=one.spacing_mm,
            path=paths.get(one.series_id),
        )
        for one in series
    ]


def _skipped_anyway(
    database: Database, job: IndexJob, config: RunConfig, series_keys: Sequence[str], check: Callable[[], None]
) -> set[str]:
    """Those that every run skips, or that changed since they were indexed."""
    skipped: set[str] = set()
    for keys in in_batches(series_keys, MANIFESTS_AT_ONCE):
        check()
        manifests = manifests_of(database, job, keys)
        taken = {k for k, m in manifests.items() if not skip_by_rule(m, config.segmentation.selection)}
        skipped |= set(keys) - taken
    return skipped
