"""A real Prometheus scrapes a real exporter and a real Ray node: every panel has something to draw."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import ray
import yaml
from archives import whole_archive
from ledger_factories import ROOT, Clock, begin_run, failed, scan, segmented, series_row
from monitoring import DASHBOARDS, MONITORING, expressions, program, rules
from sqlalchemy import update

from vaeseg.db.archives import add_archive
from vaeseg.db.drivers import take_archive
from vaeseg.db.runs import finish_run
from vaeseg.db.schedules import add_schedule
from vaeseg.db.session import Database, open_database, sqlite_url
from vaeseg.db.tables import ScheduleTable
from vaeseg.db.work import plan_work
from vaeseg.distributed.commit import commit_group
from vaeseg.distributed.submit import submit
from vaeseg.io.store import Store, create_store
from vaeseg.telemetry import PIPELINE_METRICS
from vaeseg.timetable import Timetable

NEEDS_A_GPU = {"GPUs busy", "GPU utilisation"}
"""Panels that stay empty on a machine without one."""
COMMAND = "import sys; from vaeseg.cli import main; sys.argv[0] = 'vaeseg-batch'; main()"
PATIENCE_SECONDS = 60.0

pytestmark = pytest.mark.usefixtures("ray_session")

Ask = Callable[..., Any]


def wait_for(what: str, condition: Callable[[], Any]) -> Any:
    """What a condition gives once it gives something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.3)
    pytest.fail(f"waited {PATIENCE_SECONDS:.0f} s for {what}")


@contextmanager
def running(*command: str | Path, log: Path) -> Iterator[None]:
    """A process until it is no longer needed."""
    with log.open("w") as written:
        process = subprocess.Popen([*map(str, command)], stdout=written, stderr=written, env={**os.environ})
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def last_night(database: Database, store: Store, clock: Clock) -> None:
    """A ledger with all that can be shown: a night that ended, a run in progress, a schedule that was due."""
    ward = add_archive(database, "ward", ROOT)
    add_schedule(database, "nightly", ward, Timetable(cron="0 1 * * *", window="00:00-06:00"), {})
    keys = ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
    scan(database, [series_row(key) for key in keys])
    ended = begin_run(database, ward.id)
    one, two = plan_work(database, ended, keys[:2]).pending
    commit_group(ended, [(one, segmented(one, volume_ml=30.0)), (two, failed(two))], store, database)
    finish_run(database, ended, "finished")
    with database.write() as connection:
        connection.execute(update(ScheduleTable).values(last_run_id=ended))
    clock.moment = datetime.now(UTC) - timedelta(seconds=10)
    in_progress = begin_run(database, ward.id)
    take_archive(database, ward.id, in_progress)
    items = plan_work(database, in_progress, keys).pending
    clock.advance(5)
    commit_group(in_progress, [(items[0], segmented(items[0]))], store, database)


def configuration(exporter: str, node: str) -> dict[str, Any]:
    """That of the project, with the targets of this test, and in a hurry."""
    found: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    found["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    found["rule_files"] = [str(MONITORING / path) for path in found["rule_files"]]
    for job, target in zip(found["scrape_configs"], (exporter, node), strict=True):
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [target]}]
    return found


def metrics_address() -> str:
    """Where the one node of this Ray serves its metrics."""
    (node,) = ray.nodes()
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, archive: Path, model_path: Path, ray_session: None) -> Store:
    """One with a run on Ray, and the ledger of a night."""
    root = tmp_path_factory.mktemp("watched") / "store"
    submit(whole_archive(archive, model_path, root))
    store, clock = create_store(root), Clock()
    clock.moment = datetime.now(UTC) - timedelta(days=2)
    with closing(open_database(sqlite_url(store.database_path), now=clock)) as database:
        last_night(database, store, clock)
    return store


@pytest.fixture(scope="module")
def ask(store: Store, tmp_path_factory: pytest.TempPathFactory, archive: Path, model_path: Path) -> Iterator[Ask]:
    """A Prometheus that has seen both, and a second run on Ray."""
    prometheus, directory = program("prometheus"), tmp_path_factory.mktemp("prometheus")
    log, port = directory / "exporter.log", free_port()
    exporter = [sys.executable, "-c", COMMAND, "exporter", "--port", "0", "--every", "0.5", "--store", store.root]
    server = [
        prometheus,
        f"--config.file={directory / 'prometheus.yaml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def ask(path: str, **parameters: Any) -> Any:
        try:
            with urlopen(f"http://127.0.0.1:{port}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except URLError:
            return {}

    with running(*exporter, log=log):
        address = wait_for("the exporter", lambda: re.findall(r"http://(\S+)/metrics", log.read_text()))[0]
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(configuration(address, metrics_address())))
        with running(*server, log=directory / "prometheus.log"):
            wait_for("Ray's metrics", lambda: values(ask, "sum(ray_vaeseg_series_finished_total) >= 3"))
            submit(whole_archive(archive, model_path, directory / "second"))
            for grown in ("series_finished_total", "stage_duration_seconds_count"):
                expression = f"sum(rate(ray_vaeseg_{grown}[2m])) > 0"
                wait_for("the second run", partial(values, ask, expression))
            yield ask


def values(ask: Ask, expression: str) -> list[float]:
    """What an expression gave in the last two minutes, without NaN."""
    now = time.time()
    found = ask("query_range", query=expression, start=now - 120, end=now, step=2)
    numbers = [float(text) for series in found.get("result", ()) for _, text in series["values"]]
    return [number for number in numbers if not math.isnan(number)]


def test_every_metric_of_workers_arrives(ask: Ask) -> None:
    """From real workers and a real driver, but for the GPU's; labels are those that are declared."""
    for metric in PIPELINE_METRICS:
        name = f"ray_{metric.name}" + {"counter": "_total", "histogram": "_count"}[metric.kind]
        series = ask("series", **{"match[]": name})
        assert series or metric.name in ("vaeseg_gpu_busy_seconds", "vaeseg_files_refused"), name
        assert {found[metric.label] for found in series if metric.label} <= set(metric.values)
    stages = {found["stage"] for found in ask("series", **{"match[]": "ray_vaeseg_stage_duration_seconds_count"})}
    assert stages == {"read", "segment", "measure", "commit"}


def test_what_workers_count_is_what_was_done(ask: Ask, archive: Path) -> None:
    """Two runs of three series: the files of the archive, twice, and what others did with this Ray before."""
    sizes = [path.stat().st_size for path in archive.glob("dicom/**/*.dcm")]
    for name, least in (
        ('series_finished_total{outcome="segmented"}', 6),
        ("slices_segmented_total", 2 * len(sizes)),
        ("files_read_bytes_total", 2 * sum(sizes)),
        ('stage_duration_seconds_count{stage="measure"}', 6),
    ):
        wait_for(name, partial(values, ask, f"sum(ray_vaeseg_{name}) >= {least}"))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_has_data(ask: Ask, path: Path) -> None:
    """Each expression of a dashboard gives numbers, save where there is no GPU."""
    empty = {(title, expression) for title, expression in expressions(path) if not values(ask, expression)}
    assert {title for title, _ in empty} <= NEEDS_A_GPU, empty


def test_every_alert_is_evaluated(ask: Ask) -> None:
    """None has an error; nothing fires that has no cause here."""
    (group,) = ask("rules")["groups"]
    assert {rule["name"]: (rule["health"], rule.get("lastError")) for rule in group["rules"]} == {
        rule["alert"]: ("ok", None) for rule in rules()
    }
    firing = {alert["labels"]["alertname"] for alert in ask("alerts")["alerts"] if alert["state"] == "firing"}
    assert firing <= {"VaesegNightNotStarted", "VaesegNightUnfinished"}


def test_no_label_names_a_run_a_series_or_a_path(ask: Ask, store: Store, archive: Path) -> None:
    """Of ours and of Ray's; what Ray Data tells by data set is not kept."""
    series = ask("series", **{"match[]": '{__name__=~".+"}'})
    shown = " ".join(value for found in series for value in found.values())
    run_ids = [path.name.removeprefix("run_id=") for path in store.root.glob("parquet/findings/run_id=*")]
    assert len(run_ids) == 3
    secrets = [*run_ids, str(archive), str(store.root), "1.2.1", *(path.name for path in archive.glob("dicom/*"))]
    assert [secret for secret in secrets if secret in shown] == []
    assert not any(found["__name__"].startswith("ray_data_") for found in series)


def test_rays_dashboard_is_told_of_runs_and_functions(store: Store) -> None:
    """Asked as it asks: data sets carry the run's id, operators the function's name, and nothing else is in them."""
    from ray.data._internal.stats import get_or_create_stats_actor

    told = ray.get(get_or_create_stats_actor().get_datasets.remote())
    run_ids = [path.name.removeprefix("run_id=") for path in store.root.glob("parquet/findings/run_id=*")]
    (operators,) = (
        {re.sub(r"_?\d+$", "", name) for name in state["operators"]}
        for name, state in told.items()
        if any(name.startswith(f"segment-{run_id}_") for run_id in run_ids)
    )
    assert operators >= {"Map(read)", "Map(Segment)", "Map(measure)"}
    assert [
        name for name in told if not re.fullmatch(r"[a-z_]+(-\d{8}T\d{6}-[0-9a-f]{6})?_[0-9A-Za-z]+_\d+", name)
    ] == []
