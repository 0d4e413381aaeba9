"""Scheduler and clients on node A, workers on node B, each with a server of its own, one Redis between them."""

import os
from pathlib import Path
from typing import Dict, Iterator

import pytest
from scaler import Client
from scaler.utility.identifiers import ObjectID

from cluster import RESULT_SECONDS, Cluster, Redis, StorageServer, serves_from_disk
from connection import Connection
from tasks import checksum, reverse, square

# The same workload as on one node: these tests run here again, with the fixtures of this module.
from test_cluster import (  # noqa: F401
    test_clear_forgets_objects_and_the_client_goes_on,
    test_clients_come_and_go,
    test_empty_argument_and_result,
    test_failing_task_raises_in_the_client,
    test_large_argument_shared_by_many_tasks,
    test_large_arguments_and_results,
    test_many_small_tasks,
    test_map,
    test_nested_submission,
)

MIB = 1 << 20
WORKERS = 3

pytestmark = [
    pytest.mark.skipif(not serves_from_disk(), reason="the stock server knows no Redis"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),  # of clients whose server is killed
]


@pytest.fixture(scope="module")
def redis(directory: Path) -> Iterator[Redis]:
    redis = Redis(directory)
    yield redis
    redis.kill()


def node(name: str, directory: Path, redis: Redis) -> Iterator[StorageServer]:
    node = StorageServer(directory, name, ["--backend", "tiered", "--redis-url", redis.url])
    yield node
    assert node.process.end() == 0, "the server is to end with status 0 on SIGTERM"


@pytest.fixture(scope="module")
def storage(directory: Path, redis: Redis) -> Iterator[StorageServer]:
    yield from node("node_a", directory, redis)


@pytest.fixture(scope="module")
def node_b(directory: Path, redis: Redis) -> Iterator[StorageServer]:
    yield from node("node_b", directory, redis)


@pytest.fixture(scope="module")
def cluster(directory: Path, storage: StorageServer, node_b: StorageServer) -> Iterator[Cluster]:
    cluster = Cluster(directory, storage, WORKERS, storage_of_workers=node_b)
    yield cluster
    cluster.end()


def test_redis_is_killed_and_restarted_empty_in_the_middle(client: Client, redis: Redis) -> None:
    data = [os.urandom(MIB) for _ in range(10)]
    shared = client.send_object(data[0], name="shared")
    expected = client.submit(checksum, shared, 0).result(RESULT_SECONDS)
    for _ in range(3):
        before = [client.submit(reverse, argument) for argument in data]
        redis.kill()
        during = [client.submit(square, number) for number in range(100)]
        during_shared = [client.submit(checksum, shared, offset) for offset in range(10)]
        redis.start()
        after = [client.submit(reverse, argument) for argument in data]
        for futures in (before, after):
            for argument, future in zip(data, futures):
                assert future.result(RESULT_SECONDS) == argument[::-1]
        assert [future.result(RESULT_SECONDS) for future in during] == [number * number for number in range(100)]
        assert [future.result(RESULT_SECONDS) for future in during_shared] == [expected + offset for offset in range(10)]


def test_node_b_is_killed_and_brought_back(
    client: Client, cluster: Cluster, storage: StorageServer, node_b: StorageServer
) -> None:
    data = [os.urandom(MIB) for _ in range(10)]
    # What node B has acknowledged and Redis may not have yet is readable on node A when node B is back.
    writer = Connection(node_b.address)
    kept: Dict[ObjectID, bytes] = {}
    for number in range(200):
        object_id = writer.new_id()
        kept[object_id] = os.urandom([0, 100, 100_000, 3 * MIB][number % 4])
        writer.connector.set_object(object_id, kept[object_id])
    writer.close()
    futures = [client.submit(reverse, argument) for argument in data]

    node_b.process.kill()
    # Scaler's workers end with their connection to the server.
    cluster.workers.end()
    node_b.start()
    cluster.start_workers()

    reader = Connection(storage.address)
    for object_id, content in kept.items():
        unchanged = reader.get(object_id) == content
        assert unchanged, f"{object_id!r} came back with other bytes"
    reader.close()
    for argument, future in zip(data, futures):
        assert future.result(RESULT_SECONDS) == argument[::-1]
    assert client.map(square, range(100)) == [number * number for number in range(100)]
