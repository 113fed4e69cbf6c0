"""What PostgreSQL is told about a network that may be cut; `tests/cluster/test_cut_database.py` cuts one."""

from __future__ import annotations

from sqlalchemy import make_url

from vaeseg.db.silence import IDLE_SECONDS, INTERVAL_SECONDS, PROBES, SILENCE_SECONDS, noticed_here


def test_probes_and_data_take_equally_long() -> None:
    """Whether something was under way when the network was cut or not."""
    assert IDLE_SECONDS + PROBES * INTERVAL_SECONDS == SILENCE_SECONDS


def test_what_the_url_says_stays() -> None:
    """An operator knows the network better."""
    options = noticed_here(make_url("postgresql://head/vaeseg?tcp_user_timeout=60000"))
    assert "tcp_user_timeout" not in options
    assert options["keepalives_idle"] == IDLE_SECONDS
