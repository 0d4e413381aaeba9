"""The files of docs/deployments, run by the commands that stand in them: only addresses, ports and directories are replaced."""

import re
import shlex
import sys
from pathlib import Path
from typing import Dict, Iterator, List

import pytest
from scaler import Client

from cluster import RESULT_SECONDS, VENV_BIN, Process, Redis, free_port, is_listening, serves_from_disk, server_program, wait_until
from tasks import reverse, square

DEPLOYMENTS = Path(__file__).parents[2] / "docs" / "deployments"
WORKERS = 1

pytestmark = pytest.mark.skipif(not serves_from_disk(), reason="the files are those of the server under test")


class Deployment:
    """One file, on one machine: each address of it is another port of this machine, each node has directories of its own."""

    def __init__(self, name: str, directory: Path, redis: Redis):
        self._directory = directory
        self._ports: Dict[str, int] = {"10.0.0.9:6379": redis.port}
        self._processes: List[Process] = []
        text = (DEPLOYMENTS / name).read_text()
        self._commands = re.findall(r"^# +(scaler(?:_\w+)? .*)$", text, re.MULTILINE)
        self._text = self._changed(text)
        # Files that it is used with have its name and more.
        others = [path for path in DEPLOYMENTS.glob("*.toml") if path.stem.startswith(f"{Path(name).stem}_")]
        self._files = {name: self._text, **{path.name: self._changed(path.read_text()) for path in others}}

    def _changed(self, text: str) -> str:
        text = self._here(text).replace("max_task_concurrency = 8", f"max_task_concurrency = {WORKERS}")
        text = text.replace("/etc/scaler", str(self._directory)).replace("max_size_mb = 100_000", "max_size_mb = 1024")
        return text.replace("[object_storage_server.local]", "[object_storage_server.local]\nkeeper_idle_seconds = 1")

    def _here(self, text: str) -> str:
        def here(address: "re.Match[str]") -> str:
            return f"127.0.0.1:{self._ports.setdefault(address[0], free_port())}"

        return re.sub(r"10\.0\.0\.\d:\d+", here, text)

    def address(self, of: str) -> str:
        return f"tcp://127.0.0.1:{self._ports[of]}"

    def start(self) -> None:
        for command in self._commands:
            # Each has the file that is on its node.
            node = self._directory / f"{len(self._processes)}"
            node.mkdir()
            # With Scaler's one command, everything is on one.
            place = self._directory if "all_in_one" in command else node
            for name, text in self._files.items():
                for directory in (node, self._directory):
                    (directory / name).write_text(text.replace("/var/lib/scaler", str(place)))
            program, *arguments = shlex.split(self._here(command))
            server = program == "scaler_object_storage_server"
            path = server_program() if server else str(VENV_BIN / program)
            self._processes.append(Process(f"{len(self._processes)} {program}", [path, *arguments], node))
            if program != "scaler_worker_manager":
                port = self._port_of(arguments, node)
                wait_until(lambda: is_listening(port), f"{command} listens")

    def _port_of(self, arguments: List[str], node: Path) -> int:
        """Where a server or scheduler listens: as its command says, or the file that it names."""
        given = next((word for word in arguments if word.startswith("tcp://")), None)
        bound = given or re.findall(r'^bind_address = "(.*)"', (node / arguments[-1]).read_text(), re.MULTILINE)[0]
        return int(bound.rsplit(":", 1)[1])

    def is_linked(self) -> bool:
        return "scaler_object_storage.worker:link" in self._text

    def logs(self) -> str:
        return "".join(process.log_text() for process in self._processes)

    def end(self) -> None:
        for process in reversed(self._processes):
            process.end()


@pytest.fixture(scope="module")
def redis(directory: Path) -> Iterator[Redis]:
    redis = Redis(directory)
    yield redis
    redis.kill()


def names() -> List[str]:
    """The files with commands."""
    return sorted(path.name for path in DEPLOYMENTS.glob("*.toml") if "--config" in path.read_text())


@pytest.mark.parametrize("name", names())
def test_deployment(name: str, tmp_path: Path, redis: Redis) -> None:
    deployment = Deployment(name, tmp_path, redis)
    try:
        deployment.start()
        with Client(deployment.address("10.0.0.1:2345")) as client:
            assert client.map(square, range(50)) == [number * number for number in range(50)]
            data = bytes(range(256)) * 10_000
            assert client.submit(reverse, data).result(RESULT_SECONDS) == data[::-1]
        assert len(re.findall("object store linked: ", deployment.logs())) == (WORKERS if deployment.is_linked() else 0)
    except BaseException:
        print(deployment.logs(), file=sys.stderr)
        raise
    finally:
        deployment.end()
