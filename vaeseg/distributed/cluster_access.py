"""Whether a cluster demands its token, found out by coming without it."""

from __future__ import annotations

import os
import subprocess
import sys
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from vaeseg.checks import Check, failed, passed, warned
from vaeseg.distributed.local import check_reachable
from vaeseg.errors import ClusterError

ASK_SECONDS = 10.0
PROCESS_SECONDS = 40.0
"""A process that loads Ray's native part took a second; a busy machine takes longer."""
REFUSALS = (401, 403)
ASK = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", b"cluster")
except AuthenticationError:
    print("refused")
else:
    print("answered")
"""
TURN_ON = "start every node with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH: who reaches it now can run code there"


def reached_check(address: str, advice: str) -> Check:
    """Whether anybody answers there.

    Raises:
        UsageError: the address is that of something else.
    """
    try:
        check_reachable(address)
    except ClusterError as error:
        return failed("cluster", str(error), advice)
    return passed("cluster", f"{address} is reached")


def jobs_token_check(address: str) -> Check:
    """Ask a Jobs API for its jobs without a token; a proxy of the environment has no business here.

    Args:
        address: ``http://HOST:PORT``.
    """
    try:
        opener = build_opener(ProxyHandler({}))
        with opener.open(Request(f"{address.rstrip('/')}/api/jobs/"), timeout=ASK_SECONDS):
            return _verdict("answered")
    except HTTPError as error:
        error.close()
        return _verdict("refused" if error.code in REFUSALS else f"it said {error.code}")
    except (OSError, HTTPException) as error:
        return _verdict(f"it did not answer ({type(error).__name__})")


def cluster_token_check(address: str) -> Check:
    """Ask a cluster's control service without a token.

    Args:
        address: ``HOST:PORT``.
    """
    hidden = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    without = {name: value for name, value in os.environ.items() if name not in hidden}
    return _verdict(_asked(address, {**without, "RAY_AUTH_MODE": "disabled"}))


def check_token_here(address: str) -> None:
    """Find out at once whether we have the token; Ray itself tries for half a minute.

    Args:
        address: ``HOST:PORT``.

    Raises:
        ClusterError: we have none, or another.
    """
    if _asked(address, dict(os.environ)) == "refused":
        raise ClusterError(
            f"the Ray cluster {address} demands its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file "
            "that holds it"
        )


def _asked(address: str, environment: dict[str, str]) -> str:
    """What a process with this environment is told; of its own, because Ray reads the environment once."""
    command = [sys.executable, "-c", ASK, address]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROCESS_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {PROCESS_SECONDS:.0f} s"
    return done.stdout.strip() or "it could not be asked"


def _verdict(what: str) -> Check:
    if what == "refused":
        return passed("token", "who comes without it is refused")
    if what == "answered":
        return failed("token", "the cluster answers without a token", TURN_ON)
    return warned("token", f"whether the cluster demands one is not known: {what}", "run the check again")
