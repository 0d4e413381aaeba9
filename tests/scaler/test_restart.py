"""The server under test is killed with -9 and started again on its directory."""

import os
import sys
from pathlib import Path
from typing import Dict

import pytest
from scaler import Client
from scaler.utility.identifiers import ObjectID

import writer
from cluster import RESULT_SECONDS, Cluster, Process, StorageServer, serves_from_disk, wait_until
from connection import Connection
from tasks import checksum, square
from writer import MIB, SIZES

pytestmark = pytest.mark.skipif("not serves_from_disk()", reason="the stock server keeps nothing")


def test_every_acknowledged_object_survives(storage: StorageServer) -> None:
    connection = Connection(storage.address)
    kept: Dict[ObjectID, bytes] = {}
    for size in SIZES * 10:
        object_id = connection.new_id()
        kept[object_id] = os.urandom(size)
        connection.connector.set_object(object_id, kept[object_id])
    original = next(iter(kept))
    duplicate, overwritten, deleted = (connection.new_id() for _ in range(3))
    connection.connector.duplicate_object_id(original, duplicate)
    kept[duplicate] = kept[original]
    for data in (b"old", b"new"):
        connection.connector.set_object(overwritten, data)
    kept[overwritten] = b"new"
    connection.connector.set_object(deleted, b"gone")
    assert connection.connector.delete_object(deleted)

    connection.close()
    storage.kill_and_restart()

    expected, found = len(kept), storage.objects_found()
    assert found == expected
    reader = Connection(storage.address)
    for object_id, data in kept.items():
        unchanged = reader.get(object_id) == data
        assert unchanged, f"{object_id!r} came back with other bytes"
    assert not reader.connector.delete_object(deleted), "a deleted object came back"
    for object_id in kept:
        assert reader.connector.delete_object(object_id)
    reader.close()


def test_killed_while_clients_write(storage: StorageServer, directory: Path) -> None:
    for turn in range(3):
        arguments = [sys.executable, writer.__file__, storage.address]
        writers = [Process(f"writer {turn} {number}", arguments, directory) for number in range(3)]
        for process in writers:
            wait_until(lambda: len(writer.acknowledged(process.log_text())) >= 20, f"{process.name} writes")
        storage.process.kill()
        for process in writers:
            process.kill()
        storage.start()
        reader = Connection(storage.address)
        for process in writers:
            for object_id, size in writer.acknowledged(process.log_text()).items():
                unchanged = reader.get(ObjectID(object_id)) == writer.content(object_id, size)
                assert unchanged, f"{object_id.hex()} came back with other bytes"
        reader.close()


def test_objects_of_a_cluster_survive_and_a_new_one_works(storage: StorageServer, directory: Path) -> None:
    data = os.urandom(2 * MIB)
    before = Cluster(directory, storage, workers=2)
    client = Client(before.address)
    reference = client.send_object(data, name="kept")
    expected = client.submit(checksum, reference, 0).result(RESULT_SECONDS)
    probe = Connection(storage.address)
    payload = probe.get(reference.object_id)
    probe.close()

    # Scaler's own processes end with their connection to the server: it is a cluster's objects that survive, not the cluster.
    storage.process.kill()
    before.end()
    storage.start()

    probe = Connection(storage.address)
    unchanged = probe.get(reference.object_id) == payload
    assert unchanged
    probe.close()
    after = Cluster(directory, storage, workers=2)
    with Client(after.address) as client:
        assert client.submit(checksum, data, 0).result(RESULT_SECONDS) == expected
        assert client.map(square, range(50)) == [number * number for number in range(50)]
    after.end()
