"""The web server: sockets, connections that may wait only so long, and an end without loss."""

import asyncio
import contextlib
import json
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from jaxdlm.errors import InputError
from jaxdlm.serve.refusals import Refused

SPARE = 64  # open files besides connections


class Patient(H11Protocol):
    """A connection that is closed where it asks for nothing for `patience` seconds, or where there are too many."""

    patience, most = 60.0, 512

    def connection_made(self, transport: Any) -> None:
        """Takes a connection, or says at once that there is no room."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(full())
            transport.close()
            return
        self._watch(None)

    def _watch(self, before: Any) -> None:
        """Looks again and again whether a request has come since; one that is being answered may take its time."""
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and before is (self.cycle or self):
            self.transport.abort()
            return
        self.loop.call_later(self.patience, self._watch, (self.cycle or self) if idle else None)


def full() -> bytes:
    """The whole response to one connection too many."""
    body = json.dumps(Refused(503, "too many connections: try again later", "too_many_connections").body).encode()
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Retry-After: 5\r\nConnection: close\r\n\r\n".encode() + body


def listening(host: str, port: int, patience: float) -> socket.socket:
    """A socket that listens; what a client leaves unread for `patience` seconds ends its connection. Raises InputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience * 1000))
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        raise InputError(f"--host {host} --port {port}: {error}: choose another") from None
    return sock


def files_for(connections: int) -> None:
    """Lets this process have as many open files as connections need. Raises InputError where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise InputError(
            f"--connections {connections} needs {wanted} open files, and the limit is {hard}: lower it, or raise ulimit -n"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Orderly(uvicorn.Server):
    """A server whose process ends by itself after SIGTERM or Ctrl-C, with its work done; a second Ctrl-C ends it at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Asks for an orderly end at a signal, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_server(app: Any, *, patience: float, connections: int, grace: float, quiet: bool = False) -> uvicorn.Server:
    """A server of an application, ready to run."""
    protocol = type("Connection", (Patient,), {"patience": patience, "most": connections})
    config = uvicorn.Config(
        app, http=protocol, ws="none", loop="asyncio", lifespan="on", log_level="warning" if quiet else "info",
        access_log=False, server_header=False, timeout_keep_alive=min(5, max(1, int(patience))), backlog=1024,
        timeout_graceful_shutdown=max(1, int(grace)),
    )  # fmt: skip
    return Orderly(config)


class Running(contextlib.AbstractContextManager["Running"]):
    """A server in a thread of its own, for tests and benchmarks. url: where it is."""

    def __init__(self, server: uvicorn.Server, sock: socket.socket) -> None:
        self.server, self.sock = server, sock
        self.url = "http://{}:{}".format(*sock.getsockname()[:2])
        self.thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])), daemon=True)

    def __enter__(self) -> "Running":
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            time.sleep(0.01)
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.should_exit = True
        self.thread.join(30)
