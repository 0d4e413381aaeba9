"""A real Scaler cluster around one object storage server: every process is a child, has a log file, and is ended by its id."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import psutil

# The tests of the Python package have this one too.
sys.path.append(str(Path(__file__).parents[1] / "python"))
from redis_server import RedisServer as Redis, free_port, is_listening  # noqa: E402, F401

# Generous: they only bound how long a defect takes to be reported.
START_SECONDS = 60
END_SECONDS = 30
RESULT_SECONDS = 120

VENV_BIN = Path(sys.executable).parent


def server_program() -> str:
    """The server under test; the stock server's program may stand in, to check these tests themselves."""
    return os.environ["OBJECT_STORAGE_SERVER_PROGRAM"]


def serves_from_disk() -> bool:
    return Path(server_program()).parent != VENV_BIN


def wait_until(condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s, still not: {what}"
        time.sleep(0.05)


def keeper(directory: Path) -> int:
    """The process that keeps the directory."""
    wait_until((directory / "socket").exists, f"somebody keeps {directory}")
    return int((directory / "LOCK").read_text().split()[0])


class Process:
    """One child process, its log appended to a file."""

    def __init__(self, name: str, arguments: List[str], directory: Path, environment: Optional[Dict[str, str]] = None):
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def is_running(self) -> bool:
        return self._child.poll() is None

    def wait(self, seconds: float) -> int:
        """Its exit status, once it has ended."""
        return self._child.wait(seconds)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait(END_SECONDS)

    def end(self) -> Optional[int]:
        """Terminates the process, then kills what is left of it and of its descendants; its exit status if it went by itself."""
        try:
            descendants = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            descendants = []
        status = None
        try:
            self._child.send_signal(signal.SIGTERM)
            status = self._child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        for descendant in descendants:
            try:
                descendant.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(descendants, timeout=END_SECONDS)
        return status

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


class StorageServer:
    """The object storage server under test, which may be killed and started again on its directory and port."""

    def __init__(self, directory: Path, name: str = "object_storage_server", options: Sequence[str] = ()):
        self._directory = directory
        self.name = name
        self._options = list(options)
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.process: Process
        self._starts = 0
        self.start()

    def start(self) -> None:
        self._starts += 1
        arguments = [server_program(), self.address]
        if serves_from_disk():
            path = self._directory / f"objects of {self.name}"
            arguments += ["--local-path", str(path), "--local-max-size-mb", "2048", *self._options]
        self.process = Process(self.name, arguments, self._directory)
        wait_until(self._answers, f"the server listens on {self.address}")

    def _answers(self) -> bool:
        assert self.process.is_running(), f"the server ended: {self.process.log_text()}"
        return is_listening(self.port)

    def kill_and_restart(self) -> None:
        self.process.kill()
        self.start()

    def objects_found(self) -> int:
        """How many objects its last start found, from its log: it listens a moment before it says so."""

        def found() -> List[str]:
            return re.findall(r"(\d+) objects found", self.process.log_text())

        wait_until(lambda: len(found()) == self._starts, "the server says what it found")
        return int(found()[-1])


class Cluster:
    """A scheduler and workers that use one object storage server, or the workers another one."""

    def __init__(
        self,
        directory: Path,
        storage: StorageServer,
        workers: int,
        storage_of_workers: Optional[StorageServer] = None,
        worker_options: Sequence[str] = (),
    ):
        self.storage = storage
        self._directory = directory
        self._worker_options = ["--mode", "fixed", "--max-task-concurrency", str(workers)]
        self._worker_options += ["--heartbeat-interval-seconds", "1", "--death-timeout-seconds", "60"]
        self._worker_options += worker_options
        if storage_of_workers is not None:
            self._worker_options += ["--object-storage-address", storage_of_workers.address]
        self.address = f"tcp://127.0.0.1:{free_port()}"
        monitor = f"tcp://127.0.0.1:{free_port()}"
        self.scheduler = Process(
            "scheduler",
            [str(VENV_BIN / "scaler_scheduler"), self.address, "--object-storage-address", storage.address]
            + ["--monitor-address", monitor, "--worker-timeout-seconds", "5", "--logging-level", "DEBUG"],
            directory,
        )
        wait_until(self._scheduler_listens, f"the scheduler listens on {self.address}")
        self.workers: Process
        self.start_workers()

    def start_workers(self) -> None:
        program = [str(VENV_BIN / "scaler_worker_manager"), "baremetal_native", self.address, "--worker-manager-id", "test"]
        self.workers = Process("workers", [*program, *self._worker_options], self._directory)

    def more_workers(self, name: str, options: Sequence[str]) -> Process:
        """A worker manager of another machine, with one worker."""
        program = [str(VENV_BIN / "scaler_worker_manager"), "baremetal_native", self.address, "--worker-manager-id", name]
        settings = ["--mode", "fixed", "--max-task-concurrency", "1", "--heartbeat-interval-seconds", "1"]
        return Process(name, [*program, *settings, *options], self._directory)

    def processors(self) -> List[psutil.Process]:
        """The processes that run the tasks: the children of the workers."""
        workers = psutil.Process(self.workers.pid).children()
        return [child for worker in workers for child in worker.children() if "spawn_main" in " ".join(child.cmdline())]

    def _scheduler_listens(self) -> bool:
        assert self.scheduler.is_running(), f"the scheduler ended: {self.scheduler.log_text()}"
        return is_listening(int(self.address.rsplit(":", 1)[1]))

    def end(self) -> None:
        self.workers.end()
        self.scheduler.end()
