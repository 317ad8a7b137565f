"""Certificates that change while the webhook serves: the real process, real handshakes, and no cluster at all."""

import contextlib
import http.client
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import ports
from tests.cluster.kubectl import write_kubeconfig
from tests.cluster.paths import REPOSITORY
from tests.cluster.pki import Authority, Pair
from tests.cluster.processes import Process, stop_all


class Served:
    """The webhook with its certificate, key and client CA in a folder that is kept as a kubelet keeps a volume."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory / "authority")
        self.first = self.issue("first")
        self.volume = directory / "volume"
        self.port = ports.free()
        self.process = Process("webhook", directory)
        self._published = 0
        self.publish(self.first, self.authority)
        kubeconfig = write_kubeconfig(
            directory / "nowhere", f"https://127.0.0.1:{ports.free()}", self.authority.certificate, {"token": "none"}
        )
        pin = directory / "pin"
        pin.write_text("1234")
        command = [sys.executable, "-m", "keyshred", "webhook", "--listen=127.0.0.1", f"--port={self.port}"]
        command += [f"--kubeconfig={kubeconfig}", f"--token-uri=pkcs11:token=none?module-path={pin}&pin-source={pin}"]
        command += [f"--tls-cert={self.volume}/tls.crt", f"--tls-key={self.volume}/tls.key"]
        command += [f"--client-ca={self.volume}/ca.crt", "--drain-delay=0"]
        self.process.start(command, {"PYTHONPATH": str(REPOSITORY / "operator")})
        self.process.wait_until(self._serves)

    def issue(self, name: str) -> Pair:
        """Another certificate of the same authority."""
        return self.authority.issue(name, name, hosts=["127.0.0.1"])

    def publish(self, pair: Pair, client_ca: Authority, key: Path | None = None) -> None:
        """New content, all at once, by a symbolic link that is replaced."""
        self._published += 1
        content = self.volume / f"..{self._published}"
        content.mkdir(parents=True)
        for name, file in (
            ("tls.crt", pair.certificate),
            ("tls.key", key or pair.key),
            ("ca.crt", client_ca.certificate),
        ):
            (content / name).write_bytes(file.read_bytes())
            if not (self.volume / name).is_symlink():
                (self.volume / name).symlink_to(f"..data/{name}")
        new = self.volume / "..new"
        new.symlink_to(content.name)
        new.replace(self.volume / "..data")

    def connect(self, client: Pair | None = None) -> http.client.HTTPSConnection:
        """A connection, its handshake done."""
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=60)
        connection.connect()
        return connection

    def shows(self, pair: Pair, times: int = 1) -> bool:
        """Whether it shows this certificate, in so many handshakes."""
        return all(self._shown() == pair.certificate.read_text() for _ in range(times))

    def admits(self, client: Pair) -> bool:
        """Whether a review that comes with this certificate is read, though it is none."""
        with contextlib.closing(self.connect(client)) as connection:
            return _status(connection, "POST", "/admission/secrets") == 400

    def _shown(self) -> str:
        with contextlib.closing(self.connect()) as connection:
            return _certificate(connection)

    def _serves(self) -> bool:
        try:
            return self.shows(self.first)
        except OSError:
            return False


def _status(connection: http.client.HTTPSConnection, method: str = "GET", path: str = "/livez") -> int:
    connection.request(method, path)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _certificate(connection: http.client.HTTPSConnection) -> str:
    assert isinstance(connection.sock, ssl.SSLSocket)
    der = connection.sock.getpeercert(binary_form=True)
    assert der is not None
    return ssl.DER_cert_to_PEM_cert(der)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("certificates")
    try:
        yield Served(directory)
    finally:
        stop_all(directory)


def test_a_new_certificate_is_taken_and_no_connection_breaks(served: Served) -> None:
    old, second = served.connect(), served.issue("second")
    assert _status(old) == 200
    with _connecting(served) as failures:
        served.publish(second, served.authority)
        # Enough handshakes that each of the two workers answers some.
        served.process.wait_until(lambda: served.shows(second, times=20))
    assert failures == []
    assert _status(old) == 200, "what was connected goes on"
    assert _certificate(old) == served.first.certificate.read_text()
    old.close()
    served.publish(served.first, served.authority)
    served.process.wait_until(lambda: served.shows(served.first, times=20))


def test_files_that_do_not_fit_together_are_not_taken(served: Served) -> None:
    served.publish(served.issue("third"), served.authority, key=served.issue("fourth").key)
    served.process.wait_until(lambda: served.process.log.read_text().count("the old certificate serves on") == 2)
    assert served.shows(served.first, times=20)
    served.publish(served.issue("third"), served.authority)
    served.process.wait_until(lambda: served.shows(served.issue("third"), times=20))
    served.publish(served.first, served.authority)
    served.process.wait_until(lambda: served.shows(served.first, times=20))


def test_a_new_client_authority_is_taken(served: Served, tmp_path: Path) -> None:
    another = Authority(tmp_path)
    ours, theirs = (authority.issue("apiserver", "apiserver") for authority in (served.authority, another))
    assert served.admits(ours)
    with pytest.raises(OSError, match=r"(?i)unknown ca|reset|broken pipe|closed"):
        served.admits(theirs)
    old = served.connect(ours)
    served.publish(served.first, another)

    def taken() -> bool:
        try:
            return all(served.admits(theirs) for _ in range(20))
        except OSError:
            return False

    served.process.wait_until(taken)
    with pytest.raises(OSError, match=r"(?i)unknown ca|reset|broken pipe|closed"):
        served.admits(ours)
    assert _status(old, "POST", "/admission/secrets") == 400, "what was connected goes on"
    old.close()


@contextlib.contextmanager
def _connecting(served: Served) -> Iterator[list[Exception]]:
    """One connection after the other, meanwhile; what went wrong with them."""
    failures: list[Exception] = []
    done = threading.Event()

    def connect() -> None:
        while not done.is_set():
            try:
                with contextlib.closing(served.connect()) as connection:
                    assert _status(connection) == 200
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield failures
    finally:
        done.set()
        thread.join()
