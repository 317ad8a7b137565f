"""Background programs: started in a group of their own, found again by another run, stopped by pid."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.cluster.errors import ClusterError

_POLL_SECONDS: Final = 0.25
_LOG_TAIL_LINES: Final = 40


class Process:
    """One background program, known by the files NAME.pid and NAME.log in `directory`.

    The pid file outlives the run that wrote it, so that a later run can find what a crashed one left over. It holds the
    pid and the start time: a pid alone may by then belong to a stranger.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._pid_file = directory / f"{name}.pid"

    @property
    def pid(self) -> int | None:
        """Its pid, None when it does not run."""
        try:
            pid, started = self._pid_file.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if start_time(int(pid)) == started else None

    def runs(self, command: Sequence[str]) -> bool:
        """Whether it runs, and with exactly this command line."""
        pid = self.pid
        try:
            return pid is not None and Path(f"/proc/{pid}/cmdline").read_bytes() == b"".join(
                word.encode() + b"\0" for word in command
            )
        except OSError:
            return False

    def start(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Starts it, in place of what is left of an earlier one. `env` is added to the environment of this process.

        Output is appended to the log. Errors: OSError (no such program).
        """
        self.stop()
        self._pid_file.parent.mkdir(parents=True, exist_ok=True)
        # Not subprocess: its objects want to outlive their children, while these outlive even this process.
        pid = os.posix_spawnp(
            command[0],
            list(command),
            os.environ | (env or {}),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE],  # which Python ignores, and a child would inherit that
        )
        self._pid_file.write_text(f"{pid} {start_time(pid)}")

    def stop(self, grace: float = 15) -> None:
        """Stops it and whatever it started in its group, and returns when all are gone; nothing where it does not run.

        SIGTERM to itself, then, when it is gone or after `grace` seconds, SIGKILL to the group.
        """
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            _wait_until_gone(pid, grace)
            _kill_group(pid)
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILLs it as a crash would: nothing is cleaned up, so that the next start must cope with it."""
        pid = self.pid
        if pid is not None:
            _kill_group(pid)

    def wait_until(self, ready: Callable[[], bool], timeout: float = 90) -> None:
        """Returns when `ready()` is true.

        Errors: ClusterError with the log's tail (it died, or `timeout` seconds passed).
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if self.pid is None:
                raise ClusterError(f"{self.name} ended by itself; {self.tail()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} is not ready after {timeout:.0f} s; {self.tail()}")
            time.sleep(_POLL_SECONDS)

    def tail(self) -> str:
        """The end of its log, and where that is."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n  ".join([f"the end of {self.log}:", *lines])


def stop_all(directory: Path) -> None:
    """Stops everything that was started in `directory`, by whatever run."""
    names = {pid_file.stem for pid_file in directory.glob("*.pid")}
    # Without etcd the API server cannot shut down cleanly, and without that its clients cannot.
    for name in sorted(names, key=lambda name: (name == "etcd", name == "kube-apiserver", name)):
        Process(name, directory).stop()


def start_time(pid: int) -> str | None:
    """When `pid` started, in clock ticks since boot; None when it does not run (a zombie does not)."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on: state, parent, group, ... (proc_pid_stat(5))."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the program's name, may hold spaces and parentheses: count from its end.
    return stat.rpartition(")")[2].split()


def _kill_group(leader: int) -> None:
    """SIGKILLs the leader and all of its group, also where the leader is gone already; returns when they are gone."""
    members = [pid for pid in _all_pids() if (fields := _stat(pid)) is not None and int(fields[2]) == leader]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    for pid in members:
        _wait_until_gone(pid)
    with contextlib.suppress(ChildProcessError):  # not a child of this process
        os.waitpid(leader, 0)


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _wait_until_gone(pid: int, seconds: float | None = None) -> None:
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        gone = select.poll()
        gone.register(watch, select.POLLIN)
        gone.poll(None if seconds is None else seconds * 1000)
    finally:
        os.close(watch)
