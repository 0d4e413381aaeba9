"""The server under test is replaced under a running cluster, by another one on the same directory and address."""

import time
from pathlib import Path
from threading import Event, Thread
from typing import List

import pytest
from scaler import Client

from cluster import END_SECONDS, RESULT_SECONDS, Cluster, StorageServer, serves_from_disk
from connection import Connection
from tasks import checksum, square

pytestmark = pytest.mark.skipif("not serves_from_disk()", reason="the stock server cannot be replaced")

REPLACEMENTS = 20


def test_no_task_fails_while_the_server_is_replaced(cluster: Cluster, storage: StorageServer, directory: Path) -> None:
    stopped = Event()
    asked: List[float] = []
    failures: List[BaseException] = []

    def submit_tasks() -> None:
        try:
            with Client(cluster.address) as client:
                data = bytes(300_000)
                number = 0
                while not stopped.is_set():
                    number += 1
                    futures = [client.submit(square, number + more) for more in range(20)]
                    futures.append(client.submit(checksum, data + bytes([number % 256]), number))
                    for more, future in enumerate(futures[:-1]):
                        assert future.result(RESULT_SECONDS) == (number + more) ** 2
                    assert futures[-1].result(RESULT_SECONDS) > 0
        except BaseException as failure:
            failures.append(failure)

    def ask() -> None:
        try:
            connection = Connection(storage.address)
            while not stopped.is_set():
                object_id = connection.new_id()
                began = time.monotonic()
                connection.connector.set_object(object_id, b"data" * 1000)
                assert connection.get(object_id) == b"data" * 1000
                assert connection.connector.delete_object(object_id)
                asked.append(time.monotonic() - began)
            connection.close()
        except BaseException as failure:
            failures.append(failure)

    threads = [Thread(target=target) for target in (submit_tasks, submit_tasks, ask)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(REPLACEMENTS):
            before, requests = storage.process, len(asked)
            storage.start()
            assert before.wait(END_SECONDS) == 0, before.log_text()
            deadline = time.monotonic() + RESULT_SECONDS
            while len(asked) < requests + 20 and not failures:
                assert time.monotonic() < deadline, "requests are no longer answered"
                time.sleep(0.01)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert not failures, failures
    asked.sort()
    print(f"{len(asked)} times three requests: p50 {asked[len(asked) // 2]:.4f} s, p99 {asked[len(asked) * 99 // 100]:.4f} s, worst {asked[-1]:.4f} s")
