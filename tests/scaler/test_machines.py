"""Linked workers and servers as they come and go on machines: each machine is a directory."""

import os
from pathlib import Path
from typing import Iterator, List

import pytest
from scaler import Client

from cluster import RESULT_SECONDS, Cluster, Redis, StorageServer, keeper, serves_from_disk, wait_until
from tasks import fibonacci, reverse, square

MIB = 1 << 20
LINK = 'scaler_object_storage.worker:link("{}")'

pytestmark = [
    pytest.mark.skipif(not serves_from_disk(), reason="the stock server knows no Redis"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),  # of clients whose cluster ends
]


@pytest.fixture(scope="module")
def redis(directory: Path) -> Iterator[Redis]:
    redis = Redis(directory)
    yield redis
    redis.kill()


def machine(directory: Path, objects: Path, redis: Redis) -> str:
    """What links workers to the store of the machine that keeps its objects there."""
    config = directory / f"{objects.name}.toml"
    config.write_text(
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
    return LINK.format(config)


def tiered(directory: Path, name: str, redis: Redis) -> StorageServer:
    return StorageServer(directory, name, ["--backend", "tiered", "--redis-url", redis.url])


def works(client: Client, tasks: int = 6) -> None:
    data = [os.urandom(MIB) for _ in range(tasks)]
    futures = [client.submit(reverse, argument) for argument in data]
    for argument, future in zip(data, futures):
        assert future.result(RESULT_SECONDS) == argument[::-1]


def linked(cluster: Cluster) -> int:
    return cluster.workers.log_text().count("object store linked")


def test_a_local_store_is_shared_by_workers_and_the_server_beside_them(tmp_path: Path) -> None:
    storage = StorageServer(tmp_path, "server")
    objects = tmp_path / "objects of server"
    (tmp_path / "local.toml").write_text(
        f'[object_storage_server.local]\npath = "{objects}"\nmax_size_mb = 2048\n'
    )
    cluster = Cluster(tmp_path, storage, 2, worker_options=["--preload", LINK.format(tmp_path / "local.toml")])
    with Client(cluster.address) as client:
        works(client)
        assert keeper(objects) == storage.process.pid
    wait_until(lambda: linked(cluster) >= 2, "both workers are linked")
    cluster.end()
    assert storage.process.end() == 0


def test_a_server_is_replaced_under_running_workers(tmp_path: Path, redis: Redis) -> None:
    """The server of the workers' machine; the client's is another one."""
    storage, beside = tiered(tmp_path, "client", redis), tiered(tmp_path, "workers", redis)
    objects = tmp_path / "objects of workers"
    cluster = Cluster(tmp_path, storage, 2, worker_options=["--preload", machine(tmp_path, objects, redis)])
    with Client(cluster.address) as client:
        works(client)
        assert keeper(objects) == beside.process.pid
        data = [os.urandom(MIB) for _ in range(30)]
        futures = [client.submit(reverse, argument) for argument in data]
        futures[0].result(RESULT_SECONDS)
        for is_killed in (False, True):
            if is_killed:
                beside.process.kill()
            else:
                assert beside.process.end() == 0
            works(client)
            assert keeper(objects) != beside.process.pid, "a keeper takes its place meanwhile"
            beside.start()
            assert keeper(objects) == beside.process.pid, "and leaves it to the next one"
        for argument, future in zip(data, futures):
            assert future.result(RESULT_SECONDS) == argument[::-1]
    wait_until(lambda: linked(cluster) >= 2, "both workers are linked")
    assert "not linked" not in cluster.workers.log_text()
    cluster.end()
    assert beside.process.end() == storage.process.end() == 0


def test_a_worker_manager_is_restarted_while_the_keeper_lives_on(tmp_path: Path, redis: Redis) -> None:
    storage, objects = tiered(tmp_path, "client", redis), tmp_path / "machine"
    link = machine(tmp_path, objects, redis).replace("machine.toml", "patient.toml")
    patient = (tmp_path / "machine.toml").read_text().replace("keeper_idle_seconds = 1", "keeper_idle_seconds = 20")
    (tmp_path / "patient.toml").write_text(patient)
    cluster = Cluster(tmp_path, storage, 2, worker_options=["--preload", link])
    with Client(cluster.address) as client:
        works(client)
        before = keeper(objects)
        cluster.workers.end()
        cluster.start_workers()
        works(client)
        assert keeper(objects) == before
    cluster.end()
    wait_until(lambda: not (objects / "socket").exists(), "the keeper ends when nobody needs it")
    assert storage.process.end() == 0


def test_processors_are_stopped_while_others_run(tmp_path: Path, redis: Redis) -> None:
    """What a stopped one has acknowledged is pushed all the same: the tasks that it waits for, and others, need it."""
    storage = tiered(tmp_path, "client", redis)
    options = ["--hard-processor-suspend", "--preload", machine(tmp_path, tmp_path / "machine", redis)]
    cluster = Cluster(tmp_path, storage, 1, worker_options=options)
    with Client(cluster.address) as client:
        # Few: Scaler takes a client for dead that is in a process which is stopped for a minute.
        assert client.submit(fibonacci, client, 2).result(RESULT_SECONDS) == 1
        works(client)
    log = cluster.workers.log_text()
    assert "suspend Processor" in log and "object store linked" in log and "not linked" not in log, log
    cluster.end()
    assert storage.process.end() == 0


def test_two_machines_with_linked_workers(tmp_path: Path, redis: Redis) -> None:
    storage = tiered(tmp_path, "client", redis)
    places: List[Path] = [tmp_path / "machine 1", tmp_path / "machine 2"]
    first, second = (machine(tmp_path, place, redis) for place in places)
    cluster = Cluster(tmp_path, storage, 1, worker_options=["--preload", first])
    other = cluster.more_workers("more", ["--preload", second])
    with Client(cluster.address) as client:
        wait_until(lambda: linked(cluster) and "object store linked" in other.log_text(), "workers of both are linked")
        works(client, 12)
        assert client.map(square, range(50)) == [number * number for number in range(50)]
    assert keeper(places[0]) != keeper(places[1])
    other.end()
    cluster.end()
    assert storage.process.end() == 0
