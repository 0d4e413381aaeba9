"""Workers linked to the store of their machine, which has no server; scheduler and clients on one that they share nothing with but Redis."""

import contextlib
import mmap
import os
import re
import signal
from pathlib import Path
from typing import Iterator, List

import pytest
from scaler import Client

from cluster import RESULT_SECONDS, Cluster, Redis, StorageServer, keeper, serves_from_disk, wait_until
from tasks import checksum, leave_process_id, reverse, square, stand_still_once

# The same workload as on one node: these tests run here again, with the fixtures of this module.
from test_cluster import (  # noqa: F401
    test_clear_forgets_objects_and_the_client_goes_on,
    test_empty_argument_and_result,
    test_failing_task_raises_in_the_client,
    test_large_argument_shared_by_many_tasks,
    test_large_arguments_and_results,
    test_nested_submission,
)

MIB = 1 << 20
WORKERS = 2

pytestmark = [
    pytest.mark.skipif(not serves_from_disk(), reason="the stock server knows no Redis"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),  # of clients whose cluster ends
]


@pytest.fixture(scope="module")
def redis(directory: Path) -> Iterator[Redis]:
    redis = Redis(directory)
    yield redis
    redis.kill()


@pytest.fixture(scope="module")
def storage(directory: Path, redis: Redis) -> Iterator[StorageServer]:
    storage = StorageServer(directory, "node_a", ["--backend", "tiered", "--redis-url", redis.url])
    yield storage
    assert storage.process.end() == 0, "the server is to end with status 0 on SIGTERM"


@pytest.fixture(scope="module")
def node_b(directory: Path, redis: Redis) -> Iterator[StorageServer]:
    node_b = StorageServer(directory, "node_b", ["--backend", "tiered", "--redis-url", redis.url])
    yield node_b
    assert node_b.process.end() == 0, "the server is to end with status 0 on SIGTERM"


@pytest.fixture(scope="module")
def objects(directory: Path) -> Path:
    """Where the workers' machine keeps its objects."""
    return directory / "objects of the workers"


@pytest.fixture(scope="module")
def cluster(directory: Path, redis: Redis, storage: StorageServer, objects: Path) -> Iterator[Cluster]:
    (directory / "linked.toml").write_text(
        f"""
        [object_storage_server]
        backend = "tiered"
        [object_storage_server.local]
        path = "{objects}"
        max_size_mb = 2048
        keeper_idle_seconds = 1
        [object_storage_server.redis]
        url = "{redis.url}"
        """
    )
    preload = 'scaler_object_storage.worker:link("linked.toml")'
    cluster = Cluster(directory, storage, WORKERS, worker_options=["--preload", preload])
    yield cluster
    pids = {str(processor.pid) for processor in cluster.processors()}
    cluster.end()
    # An orderly end closes every store, and so pushes what Redis does not have yet.
    closed = set(re.findall(r"scaler\[(\d+)\]: object store closed", cluster.workers.log_text()))
    assert pids and pids <= closed, f"of {pids}, only {pids & closed} closed their stores"


def are_in(place: Path, pieces: List[bytes]) -> bool:
    """Whether the journals below the directory hold all of these bytes."""
    missing = set(pieces)
    for segment in place.glob("**/journal/*"):
        # One may go meanwhile: then the next look finds what was in it elsewhere.
        with contextlib.suppress(FileNotFoundError), segment.open("rb") as file:
            if os.fstat(file.fileno()).st_size > 0:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    missing -= {piece for piece in missing if content.find(piece) >= 0}
    return not missing


def test_every_processor_is_linked(cluster: Cluster) -> None:
    lines = r"scaler\[(\d+)\]: object store linked: tiered backend, .*/objects of the workers and"
    pids = {str(processor.pid) for processor in cluster.processors()}
    assert len(pids) == WORKERS
    wait_until(lambda: pids <= set(re.findall(lines, cluster.workers.log_text())), "all processors say so")


def test_results_go_past_the_server(client: Client, objects: Path) -> None:
    data = os.urandom(MIB)
    assert client.submit(reverse, data).result(RESULT_SECONDS) == data[::-1]
    assert are_in(objects, [data[::-1][:64]])


def test_results_are_read_on_a_third_node(cluster: Cluster, node_b: StorageServer) -> None:
    data = [os.urandom(size) for size in (0, 1000, MIB, 5 * MIB)]
    with Client(cluster.address, object_storage_address=node_b.address) as client:
        futures = [client.submit(reverse, argument) for argument in data]
        for argument, future in zip(data, futures):
            assert future.result(RESULT_SECONDS) == argument[::-1]


def test_a_task_whose_result_is_too_large_fails_with_an_exception_that_says_so(client: Client, cluster: Cluster) -> None:
    assert client.map(square, range(20)) == [number * number for number in range(20)]
    before = {processor.pid for processor in cluster.processors()}
    with pytest.raises(ValueError, match=r"result of this task is too large: .*10590\d+ bytes.*limit is 104857600 bytes.*max_object_size_mb"):
        client.submit(lambda: bytes(101 * MIB)).result(RESULT_SECONDS)
    assert client.map(square, range(20)) == [number * number for number in range(20)]
    assert {processor.pid for processor in cluster.processors()} == before, "no processor has ended"


def test_a_cancelled_task_is_replaced_with_its_processor(client: Client, cluster: Cluster, directory: Path) -> None:
    marker = directory / "cancelled"
    future = client.submit(stand_still_once, str(marker))
    wait_until(marker.exists, "the task runs")
    future.cancel()
    assert client.map(square, range(20)) == [number * number for number in range(20)]


def test_what_killed_processors_had_not_pushed_is_pushed_by_the_next(
    client: Client, cluster: Cluster, redis: Redis, objects: Path, directory: Path
) -> None:
    # Invariants 1 and 4: Redis is away, so arguments come from the server and results stand in the journals alone.
    data = [os.urandom(MIB) for _ in range(6)]
    assert client.submit(square, 3).result(RESULT_SECONDS) == 9
    redis.kill()
    futures = [client.submit(reverse, argument) for argument in data]
    wait_until(lambda: are_in(objects, [argument[::-1][:64] for argument in data]), "all results are in the journals")
    # When a processor has come to its next task, it has told about its results.
    processors = cluster.processors()
    next_tasks = [client.submit(leave_process_id, str(directory)) for _ in range(12)]
    wait_until(
        lambda: all((directory / f"{processor.pid}.ran").exists() for processor in processors), "both run the next tasks"
    )
    for processor in processors:
        processor.kill()
    redis.start()
    for argument, future in zip(data, futures):
        assert future.result(RESULT_SECONDS) == argument[::-1]
    for task in next_tasks:
        task.exception(RESULT_SECONDS)  # two of them have died with their processors
    assert client.map(square, range(20)) == [number * number for number in range(20)]
    assert not {processor.pid for processor in processors} & {processor.pid for processor in cluster.processors()}


def test_redis_is_killed_and_restarted_empty_in_the_middle(client: Client, redis: Redis) -> None:
    data = [os.urandom(MIB) for _ in range(6)]
    before = [client.submit(reverse, argument) for argument in data]
    redis.kill()
    during = [client.submit(square, number) for number in range(100)]
    redis.start()
    after = [client.submit(reverse, argument) for argument in data]
    for futures in (before, after):
        for argument, future in zip(data, futures):
            assert future.result(RESULT_SECONDS) == argument[::-1]
    assert [future.result(RESULT_SECONDS) for future in during] == [number * number for number in range(100)]


def test_there_is_one_store_and_it_outlives_its_keepers(client: Client, cluster: Cluster, objects: Path) -> None:
    data = os.urandom(3 * MIB)
    futures = [client.submit(checksum, data, number) for number in range(4)]
    assert len({future.result(RESULT_SECONDS) for future in futures}) == 4
    for _ in range(3):
        os.kill(keeper(objects), signal.SIGKILL)
        # Kept: Scaler's client may take an argument for an earlier one that had the same address.
        arguments = [data[number:] for number in range(6)]
        futures = [client.submit(reverse, argument) for argument in arguments]
        for argument, future in zip(arguments, futures):
            assert future.result(RESULT_SECONDS) == argument[::-1]
    assert len(list(objects.glob("**/LOCK"))) == 1


def test_a_store_that_cannot_open_says_why_and_the_server_serves(directory: Path, storage: StorageServer) -> None:
    apart = directory / "not linked"
    apart.mkdir()
    preload = 'scaler_object_storage.worker:link("missing.toml")'
    cluster = Cluster(apart, storage, 1, worker_options=["--preload", preload])
    with Client(cluster.address) as client:
        assert client.map(square, range(20)) == [number * number for number in range(20)]
    cluster.end()
    assert re.search("ERROR .*the object storage server is used instead: .*missing.toml", cluster.workers.log_text())
