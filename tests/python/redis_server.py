"""A Redis without persistence, in a directory of its own, ended by its process id."""

import random
import socket
import subprocess
import time
from pathlib import Path
from typing import Optional

# Generous: it only bounds how long a defect takes to be reported.
START_SECONDS = 30


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Below the ports of outgoing connections: one that is retried while its server is away could otherwise connect to itself."""
    return next(port for port in random.sample(range(10_000, 32_000), 100) if not is_listening(port))


class RedisServer:
    def __init__(self, directory: Path):
        self._directory = directory
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._child: Optional[subprocess.Popen[bytes]] = None
        self.start()

    def start(self) -> None:
        arguments = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        arguments += ["--dir", str(self._directory), "--logfile", str(self._directory / "redis.log")]
        self._child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while not is_listening(self.port):
            assert self._child.poll() is None and time.monotonic() < deadline, "Redis does not start"
            time.sleep(0.005)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def configure(self, name: str, value: str) -> None:
        """`CONFIG SET`, without a client: not every environment that uses this has one."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS) as connection:
            connection.sendall(f"CONFIG SET {name} {value}\r\n".encode())
            assert connection.recv(100) == b"+OK\r\n"

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None
