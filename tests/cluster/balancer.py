"""A Service on loopback: TCP connections to whoever is ready, as kubelet and kube-proxy arrange it."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from tests.cluster import ports

_PROBE_SECONDS: Final = 0.5
"""Between looks at who is ready. A connection that is open goes on, whatever they say."""


class Balancer:
    """Sends each connection to the next of `backends`, which says of each port whether it is ready now."""

    def __init__(self, backends: Callable[[], Mapping[int, Callable[[], bool]]]) -> None:
        self.port = ports.free()
        self.connections = 0
        """How many came."""
        self._backends = backends
        self._ready: list[int] = []
        self._stop = threading.Event()
        self._open: set[socket.socket] = set()

    @contextlib.contextmanager
    def running(self) -> Iterator["Balancer"]:
        """Serves meanwhile."""
        self._look()
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            threads = [threading.Thread(target=self._probe), threading.Thread(target=self._accept, args=[listener])]
            for thread in threads:
                thread.start()
            try:
                yield self
            finally:
                self._stop.set()
                for end in (listener, *self._open):
                    _shut(end, socket.SHUT_RDWR)
                for thread in threads:
                    thread.join()

    def _probe(self) -> None:
        while not self._stop.wait(_PROBE_SECONDS):
            self._look()

    def _look(self) -> None:
        self._ready = [port for port, is_ready in self._backends().items() if is_ready()]

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # shut down
            while True:
                client, _ = listener.accept()
                self.connections += 1
                threading.Thread(target=self._connect, args=[client, self._ready]).start()

    def _connect(self, client: socket.socket, ready: list[int]) -> None:
        with client, contextlib.suppress(OSError, ZeroDivisionError):  # refused, or nobody is ready
            address = ("127.0.0.1", ready[self.connections % len(ready)])
            with socket.create_connection(address) as server:
                self._open |= {client, server}
                back = threading.Thread(target=_copy, args=[server, client])
                back.start()
                _copy(client, server)
                back.join()
                self._open -= {client, server}


def _copy(source: socket.socket, destination: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            destination.sendall(data)
    _shut(destination, socket.SHUT_WR)


def _shut(end: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(how)
