import contextlib
import sys
from pathlib import Path
from typing import Iterator

import psutil
import pytest
from scaler import Client

from cluster import Cluster, StorageServer

WORKERS = 3


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scaler")


@pytest.fixture(scope="module")
def storage(directory: Path) -> Iterator[StorageServer]:
    storage = StorageServer(directory)
    yield storage
    assert storage.process.end() == 0, "the server is to end with status 0 on SIGTERM"


@pytest.fixture(scope="module")
def cluster(directory: Path, storage: StorageServer) -> Iterator[Cluster]:
    cluster = Cluster(directory, storage, WORKERS)
    yield cluster
    cluster.end()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address) as client:
        yield client


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):  # type: ignore[no-untyped-def]
    """Shows the end of every process's log where a test fails."""
    report = (yield).get_result()
    directory = getattr(item, "funcargs", {}).get("directory")
    if report.failed and directory is not None:
        for log in sorted(directory.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-100:]
            report.sections.append((log.name, "\n".join(lines)))


@pytest.fixture(scope="session", autouse=True)
def no_keeper_stays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keepers whose Redis has ended with its test wait for it for ever."""
    yield
    place = str(tmp_path_factory.getbasetemp())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "--keeper" in process.cmdline():
                if process.environ().get("SCALER_OBJECT_STORAGE_LOCAL_PATH", "").startswith(place):
                    process.kill()
