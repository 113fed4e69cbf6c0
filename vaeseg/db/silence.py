"""PostgreSQL across a network that may be cut: both ends notice within seconds.

By itself Linux gives up after a quarter of an hour what it has sent and nobody took, and a server keeps the locks of
whoever is gone for two hours: the run that was cut off would hang, and so would what goes on with it elsewhere.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Engine, event

SILENCE_SECONDS = 20
"""After so long without any answer the other end is gone; a third of the time after which a run counts as lost."""
IDLE_SECONDS, INTERVAL_SECONDS, PROBES = 10, 5, 2
"""When the other end is asked whether it is there, while nothing is to be said; together `SILENCE_SECONDS`."""


def noticed_here(url: URL) -> dict[str, Any]:
    """Options of a connection by which this end notices; what the URL says itself stays."""
    options = {
        "keepalives_idle": IDLE_SECONDS,
        "keepalives_interval": INTERVAL_SECONDS,
        "keepalives_count": PROBES,
        "tcp_user_timeout": SILENCE_SECONDS * 1000,
    }
    return {name: value for name, value in options.items() if name not in url.query}


def notice_there(engine: Engine) -> None:
    """Tell the server at each connection to notice too; it has no effect on a connection within one machine."""
    settings = {
        "tcp_keepalives_idle": IDLE_SECONDS,
        "tcp_keepalives_interval": INTERVAL_SECONDS,
        "tcp_keepalives_count": PROBES,
        "tcp_user_timeout": SILENCE_SECONDS * 1000,
    }
    statements = "; ".join(f"SET {name} = {value}" for name, value in settings.items())

    def tell(connection: Any, _record: Any) -> None:
        connection.execute(statements)
        connection.commit()  # what is set in a transaction that is rolled back is not set

    event.listen(engine, "connect", tell)
