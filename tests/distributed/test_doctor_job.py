"""A cluster looked at by a job: what it is given, what it brings back, and what is told where it brings nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from ledger_factories import begin_run, scan, series_row
from node_answers import DIGEST

from vaeseg.checks import Check, passed
from vaeseg.db.health import LedgerFacts, ledger_facts
from vaeseg.db.session import open_database, sqlite_url
from vaeseg.distributed import doctor_job
from vaeseg.distributed.cluster_access import check_token_here, cluster_token_check, jobs_token_check
from vaeseg.distributed.doctor_job import RESULT, checks_of_head, examine_by_job
from vaeseg.distributed.jobs_api import JobsApi
from vaeseg.distributed.machine_checks import MachineFacts
from vaeseg.distributed.needs import Findings, Needs
from vaeseg.io.probe import store_probe
from vaeseg.io.store import Store

HERE = Findings(machine=MachineFacts(model_digest=DIGEST), ledger=LedgerFacts(identity="i" * 64))


def needs(store: Store) -> Needs:
    return Needs(store=store, database_url=None, model="phantom-v1")


class Cluster:
    """Stands for `JobsApi`: a job that has printed this by its end."""

    def __init__(self, store: Store, log: str, states: tuple[str, ...] = ("pending", "running", "ended")) -> None:
        self._store, self._log, self._states = store, log, list(states)
        self.request: dict[str, Any] = {}
        self.stopped: list[str] = []

    def submit_check(self, check_id: str) -> str:
        self.request = json.loads((self._store.root / f".doctor-{check_id}/request").read_text())
        return f"vaeseg-doctor-{check_id}"

    def state(self, _submission_id: str) -> str:
        return self._states.pop(0) if len(self._states) > 1 else self._states[0]

    def ending(self, _submission_id: str) -> str:
        return "Job entrypoint command failed with exit code 2"

    def logs(self, _submission_id: str) -> str:
        return self._log

    def stop(self, submission_id: str) -> None:
        self.stopped.append(submission_id)


def examined(store: Store, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, Check]:
    monkeypatch.setattr(doctor_job, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(doctor_job, "JobsApi", lambda _address: cluster)
    monkeypatch.setattr(doctor_job, "reached_check", lambda _address, _advice: passed("cluster", "reached"))
    monkeypatch.setattr(doctor_job, "jobs_token_check", lambda _address: passed("token", "demanded"))
    checks = examine_by_job(needs(store), HERE, "http://head:8265")
    assert [path.name for path in store.root.glob(".doctor-*")] == []
    return {check.name: check for check in checks}


def test_what_the_job_found_is_brought_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of a log with other lines; what it was to look for lay in the store, without a path of the archive."""
    found = Check(
        name="store", status="failed", found="there is no /store", advice="mount it", node="worker-1 0123abcd"
    )
    cluster = Cluster(store, f"said by Ray\n{RESULT}{json.dumps([found.as_json()])}\nmore of it\n")
    checks = examined(store, cluster, monkeypatch)
    assert checks["store"] == found
    assert (checks["cluster"].status, checks["token"].status) == ("ok", "ok")
    assert cluster.request == {"model": "phantom-v1", "digest": DIGEST, "vaeseg": "0.1.0", "database": "i" * 64}


def test_a_job_without_a_result_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older vaeseg on the head node has no such job."""
    check = examined(store, Cluster(store, "job_script: no job check_cluster"), monkeypatch)["cluster"]
    assert (check.status, "exit code 2" in check.found) == ("failed", True)


@pytest.mark.parametrize(("state", "what"), [("pending", "did not begin"), ("running", "did not end")])
def test_a_job_that_takes_too_long_is_stopped(
    state: str, what: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And told, with how far it came."""
    monkeypatch.setattr(doctor_job, "JOB_SECONDS", 0.0)
    cluster = Cluster(store, "", (state,))
    check = examined(store, cluster, monkeypatch)["cluster"]
    assert (check.status, what in check.found, len(cluster.stopped)) == ("failed", True, 1)


def test_without_a_store_here_there_is_nothing_to_look_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no job is submitted."""
    store = Store(tmp_path / "none")
    check = examined(store, Cluster(store, ""), monkeypatch)["head_store"]
    assert (check.status, "no store here" in check.found) == ("failed", True)


def test_a_check_is_submitted_with_its_id_and_nothing_else() -> None:
    """It takes no memory that counts, so that it begins beside a run that has it all."""
    told: dict[str, Any] = {}
    cluster = JobsApi.__new__(JobsApi)
    cluster._client = SimpleNamespace(submit_job=told.update)
    assert cluster.submit_check("0123456789abcdef") == "vaeseg-doctor-0123456789abcdef"
    assert told == {
        "entrypoint": "python -P -m vaeseg.distributed.job_script check_cluster --check-id 0123456789abcdef",
        "submission_id": "vaeseg-doctor-0123456789abcdef",
        "entrypoint_resources": {"node:__internal_head__": 0.001},
    }


@pytest.fixture
def of_head(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What the job finds on the head node, by what it was asked; nodes are not asked."""
    for name in ("VAESEG_DB", "VAESEG_DB_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        doctor_job, "nodes_of_cluster", lambda _needs, driver, *_: [passed("nodes", str(driver.model_digest))]
    )

    with store_probe(store.root) as probe:

        def found(store_root: Path | None = store.root, **changes: Any) -> dict[str, Check]:
            request = {"model": "phantom-v1", "digest": DIGEST, "vaeseg": "0.1.0", "database": None}
            probe.write("request", json.dumps(request | changes))
            checks = checks_of_head(probe.id, None if store_root is None else str(store_root))
            return {check.name: check for check in checks}

        yield found


def test_a_head_without_the_store_is_told(of_head: Any, tmp_path: Path) -> None:
    """Not told of any, or of another; a driver would not find its run."""
    for root, found in (
        (None, "VAESEG_STORE is not set on the head node"),
        (tmp_path, f"{tmp_path} is another store there"),
    ):
        (check,) = of_head(root).values()
        assert (check.name, check.status, check.node, check.found) == ("head_store", "failed", "head", found)


def test_the_database_of_the_head_must_be_the_one_here(of_head: Any, store: Store) -> None:
    """Whose archives and first run are the same; where one is not known, that has been told before."""
    assert "head_database" not in of_head(database="i" * 64)
    with closing(open_database(sqlite_url(store.database_path))) as database:
        begin_run(database, scan(database, [series_row("1.2.3")]))
        identity = ledger_facts(database).identity
    assert of_head(database=identity)["head_database"].status == "ok"
    assert of_head(database="i" * 64)["head_database"].status == "failed"
    assert "runs" not in of_head()


def test_a_head_with_another_vaeseg_is_told(of_head: Any) -> None:
    """The nodes are asked all the same, and compared with the digest of the machine that asked."""
    checks = of_head(vaeseg="9.0.0")
    assert (checks["versions"].status, "9.0.0" in checks["versions"].found) == ("failed", True)
    assert checks["nodes"].found == DIGEST


@contextmanager
def dashboard(code: int) -> Iterator[str]:
    """Address of something that answers every question with this code."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert "Authorization" not in self.headers
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as httpd:
        Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.mark.parametrize(("code", "status"), [(401, "ok"), (403, "ok"), (200, "failed"), (500, "warning")])
def test_a_cluster_that_answers_without_a_token_has_failed(code: int, status: str) -> None:
    """Whoever reaches it could run code on every node."""
    with dashboard(code) as address:
        assert jobs_token_check(address).status == status


def test_whether_a_token_is_demanded_may_not_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cluster that says nothing; that is no proof either way."""
    monkeypatch.setattr("vaeseg.distributed.cluster_access.ASK", "print('')")
    assert cluster_token_check("127.0.0.1:1").status == "warning"
    check_token_here("127.0.0.1:1")
    assert jobs_token_check("http://127.0.0.1:1").status == "warning"
