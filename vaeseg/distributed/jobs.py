"""A run as a job of a cluster: handed over, and waited for by looking at the database, where the truth about it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vaeseg.db.drivers import hand_over, last_submission
from vaeseg.db.runs import finish_run
from vaeseg.db.session import Database
from vaeseg.db.summaries import RunSummary, progress_of, run_summary
from vaeseg.distributed.jobs_api import JobsApi, JobScript
from vaeseg.distributed.lifecycle import finish_quietly, interruptible
from vaeseg.distributed.report import ProgressCallback, RunReport, no_progress
from vaeseg.errors import ClusterError, VaesegError
from vaeseg.records import FileCount

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]
"""Is given a line."""

LOOK_SECONDS = 1.0
"""Between two looks at the database."""
ASK_SECONDS = 5.0
"""Between two questions to the cluster."""
UNDER_WAY = ("running", "submitted", "lost")
"""Statuses of a run whose end is not recorded."""


def segmented_by_job(
    cluster: JobsApi, database: Database, run_id: str, wait: bool, on_progress: ProgressCallback = no_progress
) -> RunReport:
    """Have a job execute a segmentation run.

    Returns:
        What the job's driver reported; nothing but that it is under way where it is not waited for.

    Raises:
        ClusterError: the cluster does not take the job, or the job died; the run can be gone on with.
        VaesegError: the run failed, or waiting was interrupted, which leaves the job running.
    """
    job = hand_to_cluster(cluster, database, "segment_archive", run_id)
    if not wait:
        return RunReport(run_id=run_id, is_under_way=True)
    return _report(job.waited_for(on_progress))


def indexed_by_job(cluster: JobsApi, database: Database, run_id: str, wait: bool) -> dict[str, int]:
    """Have a job bring an index up to date; what it counted, or nothing where it is not waited for.

    Raises:
        VaesegError: as `segmented_by_job`.
    """
    job = hand_to_cluster(cluster, database, "index_archive", run_id)
    return dict(job.waited_for(no_progress).counts["index"]) if wait else {}


def take_back(database: Database, run_id: str) -> None:
    """Close a run that no job has begun yet, and stop its job if its cluster answers.

    A job that begins all the same finds its run closed, and ends.
    """
    finish_run(database, run_id, "interrupted")
    submission = last_submission(database, run_id)
    if submission is None:
        return
    address, submission_id = submission
    try:
        JobsApi(address).stop(submission_id)
    except VaesegError as error:
        logger.info("%s", error)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run, and the job that executes it."""

    cluster: JobsApi
    database: Database
    run_id: str
    submission_id: str
    script: JobScript

    def waited_for(self, on_progress: ProgressCallback) -> RunSummary:
        """The run at its end.

        Raises:
            VaesegError: it did not finish, or waiting was interrupted.
        """
        asked_at = time.monotonic()
        how_to_go_on = f"run {self.run_id} goes on in the cluster, 'vaeseg-batch cancel {self.run_id}' stops it"
        with interruptible(how_to_go_on) as interruption:
            database = self.database.patient(interruption.check)
            while True:
                interruption.check()
                summary = database.outlasting(lambda: run_summary(database, self.run_id))
                on_progress(progress_of(summary))
                if summary.status not in UNDER_WAY:
                    return self._checked(summary)
                if summary.status == "lost":
                    raise self._gone("nothing was heard of its driver for a minute")
                if time.monotonic() - asked_at >= ASK_SECONDS:
                    asked_at = time.monotonic()
                    self._ask(database)
                time.sleep(LOOK_SECONDS)

    def _ask(self, database: Database) -> None:
        """Find out whether the job is there still; a cluster that does not answer may come back.

        A run that was gone on with elsewhere meanwhile is not ours to close.

        Raises:
            ClusterError: it is not.
        """
        try:
            state = self.cluster.state(self.submission_id)
            ending = self.cluster.ending(self.submission_id) if state in ("ended", "unknown") else None
        except ClusterError as error:
            logger.info("%s", error)
            return
        if ending is None or run_summary(database, self.run_id).status not in UNDER_WAY:
            return
        submission = last_submission(database, self.run_id)
        if submission is not None and submission[1] == self.submission_id:
            finish_run(database, self.run_id, "interrupted")
        raise self._gone(self._last_words() or ending or "the cluster does not know it")

    def _checked(self, summary: RunSummary) -> RunSummary:
        if summary.status in ("finished", "nothing_to_do"):
            return summary
        raise VaesegError(self._last_words() or f"run {self.run_id} was {summary.status}")

    def _gone(self, reason: str) -> ClusterError:
        return ClusterError(f"the job of run {self.run_id} ended before the run: {reason}; {self._how_to_go_on()}")

    def _how_to_go_on(self) -> str:
        if self.script in ("train_vae", "train_decoder"):
            return "the same command with --resume goes on from the last state"
        if self.script == "evaluate_model":
            return "give the command again"
        return f"finished series are kept, 'vaeseg-batch resume {self.run_id}' goes on with the rest"

    def _last_words(self) -> str:
        """What the job's driver said of its end; empty where nothing can be learnt."""
        try:
            said = [line for line in self.cluster.logs(self.submission_id).splitlines() if line.strip()]
        except VaesegError:
            return ""
        start = f"run {self.run_id}: "
        return next((line.removeprefix(start) for line in reversed(said) if line.startswith(start)), "")


def hand_to_cluster(cluster: JobsApi, database: Database, script: JobScript, run_id: str) -> Job:
    """Have a job execute a run that is written down.

    Raises:
        ClusterError: the cluster does not take it; the run has failed.
    """
    submission_id = hand_over(database, run_id)
    try:
        cluster.submit(script, run_id, submission_id)
    except VaesegError:
        finish_quietly(database, run_id, "failed")
        raise
    return Job(cluster=cluster, database=database, run_id=run_id, submission_id=submission_id, script=script)


def followed(job: Job, tell: Tell) -> RunSummary:
    """Wait for a job, and tell its log line by line as it comes; the run at its end.

    Raises:
        VaesegError: the run did not finish, or waiting was interrupted.
    """
    told = 0

    def tell_more(_progress: object) -> None:
        nonlocal told
        try:
            *lines, _unfinished = job.cluster.logs(job.submission_id).split("\n")
        except VaesegError:
            return
        for line in lines[told:]:
            tell(line)
        told = len(lines)

    summary = job.waited_for(tell_more)
    tell_more(None)
    return summary


def _report(summary: RunSummary) -> RunReport:
    status: Literal["finished", "nothing_to_do"] = "finished" if summary.status == "finished" else "nothing_to_do"
    counts = summary.counts
    return RunReport(
        run_id=summary.run_id,
        status=status,
        outcomes=counts["outcomes"],
        files=summary.files or FileCount(found=0, in_series=0, refused=0),
        left_out_by_rule=counts["left_out_by_rule"],
        index=counts["index"],
        is_retry=counts["is_retry"],
        unmatched_labels=counts["unmatched_labels"],
        n_slices=counts["n_slices"],
        seconds=counts["seconds"],
    )
