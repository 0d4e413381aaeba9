"""The server under test is killed with -9 and started again on its directory."""

import os
import threading
from pathlib import Path
from typing import Dict, List

import pytest
from scaler import Client
from scaler.utility.identifiers import ObjectID

from cluster import RESULT_SECONDS, Cluster, StorageServer, serves_from_disk
from connection import Connection
from tasks import checksum, square

MIB = 1 << 20
SIZES = [0, 1, 100, 4096, 100_000, MIB, 5 * MIB]

pytestmark = [
    pytest.mark.skipif("not serves_from_disk()", reason="the stock server keeps nothing"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),  # of clients whose server is killed
]


def test_every_acknowledged_object_survives(storage: StorageServer) -> None:
    writer = Connection(storage)
    kept: Dict[ObjectID, bytes] = {}
    for size in SIZES * 10:
        object_id = writer.new_id()
        kept[object_id] = os.urandom(size)
        writer.connector.set_object(object_id, kept[object_id])
    original = next(iter(kept))
    duplicate, overwritten, deleted = (writer.new_id() for _ in range(3))
    writer.connector.duplicate_object_id(original, duplicate)
    kept[duplicate] = kept[original]
    for data in (b"old", b"new"):
        writer.connector.set_object(overwritten, data)
    kept[overwritten] = b"new"
    writer.connector.set_object(deleted, b"gone")
    assert writer.connector.delete_object(deleted)

    storage.kill_and_restart()

    expected, found = len(kept), storage.objects_found()
    assert found == expected
    writer.close()
    reader = Connection(storage)
    for object_id, data in kept.items():
        unchanged = reader.get(object_id) == data
        assert unchanged, f"{object_id!r} came back with other bytes"
    assert not reader.connector.delete_object(deleted), "a deleted object came back"
    for object_id in kept:
        assert reader.connector.delete_object(object_id)
    reader.close()


def test_killed_while_clients_write(storage: StorageServer) -> None:
    for _ in range(3):
        acknowledged: List[Dict[ObjectID, bytes]] = [{} for _ in range(3)]
        begun = threading.Barrier(len(acknowledged) + 1)

        def write(mine: Dict[ObjectID, bytes]) -> None:
            connection = Connection(storage)
            while True:
                object_id, data = connection.new_id(), os.urandom(SIZES[len(mine) % len(SIZES)])
                try:
                    connection.connector.set_object(object_id, data)
                except Exception:
                    break
                mine[object_id] = data
                if len(mine) == 20:
                    begun.wait(RESULT_SECONDS)
            connection.close()

        writers = [threading.Thread(target=write, args=(mine,), daemon=True) for mine in acknowledged]
        for writer in writers:
            writer.start()
        begun.wait(RESULT_SECONDS)
        storage.process.kill()
        for writer in writers:
            writer.join(RESULT_SECONDS)
            assert not writer.is_alive(), "a client hangs on the server that was killed"
        storage.start()
        reader = Connection(storage)
        for mine in acknowledged:
            assert len(mine) >= 20
            for object_id, data in mine.items():
                unchanged = reader.get(object_id) == data
                assert unchanged, f"{object_id!r} came back with other bytes"
        reader.close()


def test_objects_of_a_cluster_survive_and_a_new_one_works(storage: StorageServer, directory: Path) -> None:
    data = os.urandom(2 * MIB)
    before = Cluster(directory, storage, workers=2)
    client = Client(before.address)
    reference = client.send_object(data, name="kept")
    expected = client.submit(checksum, reference, 0).result(RESULT_SECONDS)
    probe = Connection(storage)
    payload = probe.get(reference.object_id)
    probe.close()

    # Scaler's own processes end with their connection to the server: it is a cluster's objects that survive, not the cluster.
    storage.process.kill()
    before.end()
    storage.start()

    probe = Connection(storage)
    unchanged = probe.get(reference.object_id) == payload
    assert unchanged
    probe.close()
    after = Cluster(directory, storage, workers=2)
    with Client(after.address) as client:
        assert client.submit(checksum, data, 0).result(RESULT_SECONDS) == expected
        assert client.map(square, range(50)) == [number * number for number in range(50)]
    after.end()
