"""The exporter as a service: metrics over HTTP, until it is told to stop."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from vaeseg.errors import UsageError, VaesegError
from vaeseg.exporter.families import exporter_registry
from vaeseg.exporter.watcher import Watcher

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
"""A client that says nothing for so long is hung up on."""
POLL_SECONDS = 0.1
"""How long a signal waits to be noticed, at most."""


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a scrape a few seconds is no news."""


class _Server(ThreadingWSGIServer):
    """A thread a request."""

    timeout = POLL_SECONDS

    def server_bind(self) -> None:
        """As HTTPServer does it, without asking DNS for a name that nobody needs."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or fell silent is no news either."""
        logger.debug("a scrape was not finished", exc_info=True)


class _ServerV6(_Server):
    address_family = socket.AF_INET6


def serve(watcher: Watcher, host: str, port: int, is_over: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Serve what a watcher sees until a function says that it is over.

    Whoever scrapes before the first look is finished waits for it.

    Args:
        watcher: looks in a thread of its own, which does not keep the process from ending.
        host: address to listen on.
        port: 0 for a free one.
        is_over: asked often.
        say: told when it begins and ends.

    Raises:
        VaesegError: the port is in use, or nobody can listen there.
    """
    stopped = threading.Event()
    with _listening(exporter_registry(watcher), host, port) as server:
        say(f"exporter: serves http://{_shown(host)}:{server.server_port}/metrics")
        threading.Thread(target=watcher.watch, args=(stopped,), name="watcher", daemon=True).start()
        while not is_over() and not watcher.has_looked.wait(POLL_SECONDS):
            pass
        while not is_over():
            server.handle_request()
    stopped.set()
    say("exporter: ended")


def _listening(registry: CollectorRegistry, host: str, port: int) -> _Server:
    kind = _ServerV6 if ":" in host else _Server
    try:
        return make_server(host, port, make_wsgi_app(registry), kind, handler_class=_Handler)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: OSError) -> VaesegError:
    if error.errno == errno.EADDRINUSE:
        return VaesegError(f"port {port} of {host} is in use: end what has it, or choose another with --port")
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"--host {host} is no address of this machine")
    return VaesegError(f"port {port} of {host} cannot be listened on: {error.strerror}")


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
