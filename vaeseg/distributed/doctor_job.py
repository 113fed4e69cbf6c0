"""A cluster looked at through its Jobs API: a job on the head node looks, and its log brings back what it found.

The job is given an id and nothing else. What it is to look for lies in the store, under that id, so that a head node
with another store is noticed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import vaeseg
from vaeseg.checks import Check, failed, looked, on_node, passed
from vaeseg.db.health import LedgerFacts
from vaeseg.db.location import url_from_environment
from vaeseg.distributed import machine
from vaeseg.distributed.cluster_access import jobs_token_check, reached_check
from vaeseg.distributed.cluster_doctor import CLUSTER_SECONDS, model_elsewhere, nodes_of_cluster, usable_probe
from vaeseg.distributed.doctor import ledger_checks
from vaeseg.distributed.job import cluster_of_job
from vaeseg.distributed.jobs_api import JobsApi
from vaeseg.distributed.local import join_cluster
from vaeseg.distributed.machine_checks import REINSTALL, MachineFacts
from vaeseg.distributed.needs import Findings, Needs
from vaeseg.errors import EXIT_OK, ClusterError
from vaeseg.io.probe import StoreProbe
from vaeseg.io.store import Store
from vaeseg.logs import show_uncaught_errors
from vaeseg.paths import any_path

JOB_SECONDS = 105.0
"""For the job, out of CLUSTER_SECONDS: it starts, asks every node, and ends."""
LOOK_SECONDS = 0.5
REQUEST = "request"
"""Name of the file in the store that says what the job is to look for."""
RESULT = "vaeseg-doctor-result "
"""Begins the line of the log that holds what was found."""
HEAD = "head"
"""Stands for the node of what the driver itself found."""
REACH = "is it up, and do RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here name the token that its nodes have?"
SET_STORE = "start Ray there with VAESEG_STORE set to this store, mounted at the same path"
MAKE_STORE = "make it with 'vaeseg-batch archive add', or name another with --store"
SAME_VAESEG = "install the same vaeseg on the head node, and look at the job in the dashboard"


def examine_by_job(needs: Needs, here: Findings, address: str) -> list[Check]:
    """Look at a cluster, at its head as the driver of nights, and at each of its nodes.

    Args:
        needs: of the night that would be submitted.
        here: what was found on this machine.
        address: ``http://HOST:PORT``.

    Raises:
        UsageError: the address is that of something else.
    """
    reached = reached_check(address, REACH)
    if reached.status == "failed":
        return [reached]
    token = looked("token", lambda: [jobs_token_check(address)], REACH)
    with usable_probe(needs.store.root) as probe:
        if probe is None:
            return [
                reached,
                *token,
                failed("head_store", "there is no store here to look for on the head node", MAKE_STORE),
            ]
        probe.write(REQUEST, json.dumps(_request(needs, here)))
        return [reached, *token, *looked("cluster", lambda: _by_job(address, probe.id), REACH, CLUSTER_SECONDS)]


def _by_job(address: str, check_id: str) -> list[Check]:
    cluster = JobsApi(address)
    submission_id = cluster.submit_check(check_id)
    _await_end(cluster, submission_id, time.monotonic() + JOB_SECONDS)
    return _result(cluster, submission_id)


def _request(needs: Needs, here: Findings) -> dict[str, str | None]:
    return {
        "model": model_elsewhere(needs),
        "digest": here.machine.model_digest,
        "vaeseg": vaeseg.__version__,
        "database": here.ledger.identity,
    }


def _await_end(cluster: JobsApi, submission_id: str, until: float) -> None:
    while (state := cluster.state(submission_id)) in ("pending", "running"):
        if time.monotonic() > until:
            cluster.stop(submission_id)
            what = "did not begin" if state == "pending" else "did not end"
            raise ClusterError(f"the job that looks {what} within {JOB_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)


def _result(cluster: JobsApi, submission_id: str) -> list[Check]:
    told = [line for line in cluster.logs(submission_id).splitlines() if line.startswith(RESULT)]
    if not told:
        reason = cluster.ending(submission_id) or "nothing is known of its end"
        return [failed("cluster", f"the job that looks brought no result: {reason}", SAME_VAESEG)]
    return [Check(**check) for check in json.loads(told[-1].removeprefix(RESULT))]


def run_check(description: str) -> int:
    """What the job does: look, and print a line with what was found."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check-id", required=True, help="of a request that lies in the store of $VAESEG_STORE")
    show_uncaught_errors()
    checks = checks_of_head(parser.parse_args().check_id, os.environ.get("VAESEG_STORE"))
    print(RESULT + json.dumps([check.as_json() for check in checks]), flush=True)
    return EXIT_OK


def checks_of_head(check_id: str, store_root: str | None) -> list[Check]:
    """Look at the head node as the driver of nights, then at every node.

    Args:
        check_id: of the request.
        store_root: what the head node takes for the store; None where nobody told it.
    """
    store = None if store_root is None else Store(any_path(store_root))
    probe = None if store is None else StoreProbe(root=store.root, id=check_id)
    text = None if probe is None else probe.read(REQUEST)
    if store is None or text is None:
        found = "VAESEG_STORE is not set on the head node" if store is None else f"{store.root} is another store there"
        return on_node(HEAD, [failed("head_store", found, SET_STORE)])
    request: dict[str, Any] = json.loads(text)
    needs = Needs(store=store, database_url=url_from_environment(), model=request["model"])
    of_ledger, ledger = ledger_checks(needs)
    checks = [passed("head_store", f"{store.root} is the store"), *_but_runs(of_ledger)]
    checks += _same_database(request["database"], ledger)
    checks += _same_vaeseg(request["vaeseg"])
    driver = MachineFacts(model_digest=request["digest"])
    checks += looked("versions", lambda: _versions(driver), REINSTALL)
    return [*on_node(HEAD, checks), *nodes_of_cluster(needs, driver, ledger.archives, _join)]


def _but_runs(checks: list[Check]) -> list[Check]:
    """Whoever asks has told of them."""
    return [check for check in checks if check.name != "runs"]


def _same_database(identity: str | None, ledger: LedgerFacts) -> Iterator[Check]:
    """Whether a run that is written down where the command runs would be found by its driver."""
    if identity is None or ledger.identity is None:
        return  # one of them has failed, or there is none yet
    if identity == ledger.identity:
        yield passed("head_database", "the head node has the same database")
    else:
        advice = "start Ray there with VAESEG_DB or VAESEG_DB_FILE naming the database that is used here"
        yield failed("head_database", "the head node has another database than this machine", advice)


def _same_vaeseg(version: str) -> Iterator[Check]:
    if version != vaeseg.__version__:
        found = f"vaeseg {vaeseg.__version__}, the machine that asks has {version}"
        yield failed("versions", found, "install the same vaeseg on both")


def _versions(driver: MachineFacts) -> list[Check]:
    driver.versions = machine.versions()
    return []


def _join() -> None:
    join_cluster(cluster_of_job() or "auto")
