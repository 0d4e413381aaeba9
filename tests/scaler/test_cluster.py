"""What users of Scaler do, through the server under test."""

import os
import zlib

import pytest
from scaler import Client

from cluster import RESULT_SECONDS, Cluster
from tasks import checksum, fail, fibonacci, reverse, square

MIB = 1 << 20


def test_many_small_tasks(client: Client) -> None:
    futures = [client.submit(square, number) for number in range(1000)]
    assert [future.result(RESULT_SECONDS) for future in futures] == [number * number for number in range(1000)]


def test_map(client: Client) -> None:
    assert client.map(square, range(200)) == [number * number for number in range(200)]


@pytest.mark.parametrize("size", [MIB, 5 * MIB, 32 * MIB])
def test_large_arguments_and_results(client: Client, size: int) -> None:
    arguments = [os.urandom(size) for _ in range(4)]
    futures = [client.submit(reverse, argument) for argument in arguments]
    for argument, future in zip(arguments, futures):
        assert future.result(RESULT_SECONDS) == argument[::-1]


def test_empty_argument_and_result(client: Client) -> None:
    assert client.submit(reverse, b"").result(RESULT_SECONDS) == b""


def test_large_argument_shared_by_many_tasks(client: Client) -> None:
    data = os.urandom(16 * MIB)
    shared = client.send_object(data, name="shared")
    futures = [client.submit(checksum, shared, offset) for offset in range(30)]
    expected = zlib.crc32(data)
    assert [future.result(RESULT_SECONDS) for future in futures] == [expected + offset for offset in range(30)]


def test_failing_task_raises_in_the_client(client: Client) -> None:
    future = client.submit(fail, "on purpose")
    with pytest.raises(ValueError, match="on purpose"):
        future.result(RESULT_SECONDS)
    assert client.submit(square, 3).result(RESULT_SECONDS) == 9


def test_nested_submission(client: Client) -> None:
    assert client.submit(fibonacci, client, 5).result(RESULT_SECONDS) == 5


def test_clear_forgets_objects_and_the_client_goes_on(client: Client) -> None:
    shared = client.send_object(os.urandom(MIB), name="cleared")
    assert isinstance(client.submit(checksum, shared, 0).result(RESULT_SECONDS), int)
    client.clear()
    with pytest.raises(Exception):
        client.submit(checksum, shared, 0).result(RESULT_SECONDS)
    assert client.submit(square, 4).result(RESULT_SECONDS) == 16


def test_clients_come_and_go(cluster: Cluster) -> None:
    for number in range(5):
        with Client(cluster.address) as client:
            assert client.submit(square, number).result(RESULT_SECONDS) == number * number
