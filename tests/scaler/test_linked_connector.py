"""What a processor reads and writes objects with when the store is linked into it, without a cluster around it."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Callable, Dict, Iterator, List

import pytest
from scaler.utility.exceptions import ObjectStorageException
from scaler.utility.identifiers import ObjectID
from scaler.worker.agent.processor.processor import Processor
from scaler_object_storage import ObjectStore, worker
from scaler_object_storage.worker import LinkedObjectStorageConnector, link

from cluster import RESULT_SECONDS, Redis, StorageServer, serves_from_disk, wait_until
from connection import Connection

MIB = 1 << 20

pytestmark = pytest.mark.skipif(not serves_from_disk(), reason="the stock server knows no Redis")


@pytest.fixture(scope="module")
def redis(directory: Path) -> Iterator[Redis]:
    redis = Redis(directory)
    yield redis
    redis.kill()


@pytest.fixture(scope="module")
def storage(directory: Path, redis: Redis) -> Iterator[StorageServer]:
    storage = StorageServer(directory, options=["--backend", "tiered", "--redis-url", redis.url])
    yield storage
    assert storage.process.end() == 0, "the server is to end with status 0 on SIGTERM"


@pytest.fixture
def server(storage: StorageServer) -> Iterator[Connection]:
    """A client of the server."""
    connection = Connection(storage.address)
    yield connection
    connection.close()


@pytest.fixture
def store(tmp_path: Path, redis: Redis) -> Iterator[ObjectStore]:
    options = {"url": redis.url, "max_object_size_mb": 8, "connection_pool_size": 2}
    local = {"path": tmp_path, "max_size_mb": 256, "keeper_idle_seconds": 1}
    with ObjectStore.attach(backend="tiered", local=local, redis=options) as store:
        yield store


@pytest.fixture
def linked(storage: StorageServer, store: ObjectStore) -> Iterator[LinkedObjectStorageConnector]:
    connection = Connection(storage.address)
    yield LinkedObjectStorageConnector(store, connection.connector)
    connection.close()


def new_id() -> ObjectID:
    return ObjectID(os.urandom(32))


@pytest.mark.parametrize("size", [0, 1, 1000, 3 * MIB])
def test_both_ways(linked: LinkedObjectStorageConnector, server: Connection, size: int) -> None:
    # Invariant 4. The id in the store is the one of the wire.
    ours, theirs = new_id(), new_id()
    data = os.urandom(size)
    linked.set_object(ours, data)
    assert server.get(ours) == data
    server.connector.set_object(theirs, data)
    found = linked.get_object(theirs)
    # Large ones are not copied.
    assert (type(found), bytes(found)) == (memoryview if size == 3 * MIB else bytes, data)
    assert linked.get_object(ours, 10) == linked.get_object(theirs, max_payload_length=10) == data[:10]
    assert linked.address == server.connector.address


def test_deletes_and_duplicates(linked: LinkedObjectStorageConnector, store: ObjectStore, server: Connection) -> None:
    original, duplicate, later = (new_id() for _ in range(3))
    server.connector.set_object(original, b"data")
    linked.duplicate_object_id(original, duplicate)
    assert server.get(duplicate) == b"data"
    assert linked.delete_object(duplicate)
    assert not linked.delete_object(duplicate)
    # Invariant 5: what the server deletes goes from here as well.
    assert linked.get_object(original) == b"data"
    assert server.connector.delete_object(original)
    wait_until(lambda: store.get(original) is None, "the copy is dropped")

    waiting = threading.Thread(target=linked.duplicate_object_id, args=(later, duplicate))
    waiting.start()
    server.connector.set_object(later, b"later")
    waiting.join(RESULT_SECONDS)
    assert server.get(duplicate) == b"later"


def test_a_get_waits_for_its_object(linked: LinkedObjectStorageConnector, store: ObjectStore, server: Connection) -> None:
    object_id = new_id()
    linked._patience_seconds = RESULT_SECONDS
    writer = threading.Thread(target=lambda: (wait_for_a_waiter(store), server.connector.set_object(object_id, b"data")))
    writer.start()
    assert linked.get_object(object_id) == b"data"
    writer.join(RESULT_SECONDS)


def wait_for_a_waiter(store: ObjectStore) -> None:
    wait_until(lambda: store.info().waiting_requests == 1, "somebody waits")


def test_what_does_not_exist_yet_is_waited_for_at_the_server(
    linked: LinkedObjectStorageConnector, server: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked._patience_seconds = 0.0
    object_id = new_id()
    found: List[bytes] = []
    reader = threading.Thread(target=lambda: found.append(linked.get_object(object_id)), daemon=True)
    reader.start()
    wait_until(lambda: linked._told, "the server is asked")
    server.connector.set_object(object_id, b"data")
    reader.join(RESULT_SECONDS)
    assert found == [b"data"]


def test_what_redis_has_no_room_for_is_read_from_the_server(
    linked: LinkedObjectStorageConnector, server: Connection, redis: Redis
) -> None:
    # Invariant 9: the server has it, and Redis says that it does not exist.
    object_id, duplicate = new_id(), new_id()
    found: List[bytes] = []

    def read() -> None:
        found.append(linked.get_object(object_id))
        linked.duplicate_object_id(object_id, duplicate)

    redis.configure("maxmemory", "1")
    try:
        server.connector.set_object(object_id, b"data")
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(RESULT_SECONDS)
        assert found == [b"data"]
        assert server.get(duplicate) == b"data"
    finally:
        redis.configure("maxmemory", "0")


@pytest.mark.parametrize("redis_hangs", [False, True])
def test_a_get_that_waits_ends_in_a_signal_handler(
    linked: LinkedObjectStorageConnector, store: ObjectStore, redis: Redis, redis_hangs: bool
) -> None:
    linked._patience_seconds = RESULT_SECONDS

    def interrupt() -> None:
        wait_for_a_waiter(store)
        os.kill(os.getpid(), signal.SIGTERM)

    if redis_hangs:
        os.kill(redis.pid, signal.SIGSTOP)
    # As Scaler's processors do when they are asked to end.
    before = signal.signal(signal.SIGTERM, lambda *_: linked.destroy())
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(ObjectStorageException):
            linked.get_object(new_id())
        thread.join(RESULT_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, before)
        os.kill(redis.pid, signal.SIGCONT)
    with pytest.raises(ObjectStorageException):
        linked.set_object(new_id(), b"data")
    assert store.info().waiting_requests == 0 and not store.closed


def test_what_the_store_refuses_goes_to_the_server(
    linked: LinkedObjectStorageConnector, server: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    data = os.urandom(9 * MIB)
    for object_id in (new_id(), new_id()):
        linked.set_object(object_id, data)
        unchanged = server.get(object_id) == data
        assert unchanged
    [line] = [record.getMessage() for record in caplog.records if "is used instead" in record.getMessage()]
    assert "the limit is 8388608 bytes" in line and str(linked.address) in line


def test_without_redis_the_server_is_asked(
    linked: LinkedObjectStorageConnector, server: Connection, redis: Redis
) -> None:
    # Invariant 10.
    ours, theirs, later = (new_id() for _ in range(3))
    redis.kill()
    linked.set_object(ours, b"ours")
    server.connector.set_object(theirs, b"theirs")
    assert (linked.get_object(ours), linked.get_object(theirs)) == (b"ours", b"theirs")
    redis.start()
    assert server.get(ours) == b"ours"
    server.connector.set_object(later, b"later")
    assert linked.get_object(later) == b"later"


@pytest.fixture
def processor(server: Connection, monkeypatch: pytest.MonkeyPatch) -> Processor:
    """As far as link() looks at it."""
    processor = Processor.__new__(Processor)
    processor._connector_storage = server.connector
    processor._resume_event = threading.Event()
    monkeypatch.setattr(multiprocessing, "current_process", lambda: processor)
    return processor


def write(path: Path, **settings: str) -> Path:
    """A config file: the keys are `key` or `table__key`."""
    lines = [f'{key.replace("__", ".")} = {value}' for key, value in settings.items()]
    path.write_text("\n".join(["[object_storage_server]", *lines]))
    return path


@pytest.mark.parametrize("hard", [False, True])
def test_linking_tiered(
    processor: Processor, redis: Redis, server: Connection, tmp_path: Path, hard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if hard:
        hard_suspend(processor)
    objects = tmp_path / "objects"
    settings = {"local__path": f'"{objects}"', "local__max_size_mb": "64", "local__keeper_idle_seconds": "1"}
    config = write(tmp_path / "a.toml", backend='"tiered"', redis__url=f'"{redis.url}"', **settings)
    before = processor._connector_storage
    with caplog.at_level(logging.INFO):
        link(str(config))
    linked = processor._connector_storage
    assert isinstance(linked, LinkedObjectStorageConnector) and linked._server is before
    assert f"object store linked: tiered backend, {objects} and" in caplog.text
    assert (objects / "socket").exists(), "a keeper was started"
    check_shared(processor, server)


def test_linking_beside_the_server_on_its_directory(
    processor: Processor, storage: StorageServer, redis: Redis, server: Connection, directory: Path, tmp_path: Path
) -> None:
    settings = {"local__path": f'"{directory}/objects of {storage.name}"', "local__max_size_mb": "2048"}
    link(write(tmp_path / "a.toml", backend='"tiered"', redis__url=f'"{redis.url}"', **settings))
    lock = directory / f"objects of {storage.name}" / "LOCK"
    assert int(lock.read_text().split()[0]) == storage.process.pid
    # Redis is not needed for what is on the machine.
    redis.kill()
    try:
        check_shared(processor, server)
    finally:
        redis.start()


def test_linking_local_beside_the_server(
    processor: Processor, directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = StorageServer(directory, "local")
    connection = Connection(storage.address)
    processor._connector_storage = connection.connector
    objects = directory / "objects of local"
    config = write(tmp_path / "a.toml", backend='"local"', local__path=f'"{objects}"', local__max_size_mb="2048")
    link(config)
    check_shared(processor, connection)
    # Another directory is shared with nobody.
    processor._connector_storage = connection.connector
    settings = {"local__max_size_mb": "64", "local__keeper_idle_seconds": "1"}
    link(write(tmp_path / "b.toml", backend='"local"', local__path=f'"{tmp_path}/other"', **settings))
    assert processor._connector_storage is connection.connector
    assert "keeps the same directory" in caplog.text
    connection.close()
    assert storage.process.end() == 0


def test_arguments_reach_the_serializer_as_views_or_as_copies(linked: LinkedObjectStorageConnector, store: ObjectStore) -> None:
    data = os.urandom(MIB)
    object_id = new_id()
    linked.set_object(object_id, data)
    copying = LinkedObjectStorageConnector(store, linked._server, copy=True)
    assert (type(copying.get_object(object_id)), type(linked.get_object(object_id))) == (bytes, memoryview)
    handed: List[object] = []

    class Cache:
        def has_object(self, _: ObjectID) -> bool:
            return False

        def add_object(self, source: object, object_id: ObjectID, content: object) -> None:
            handed.append(content)

    class Task:
        source = b""

    processor = Processor.__new__(Processor)
    processor._connector_storage, processor._object_cache = linked, Cache()
    processor._Processor__get_required_object_ids_for_task = lambda task: [object_id]
    worker._hand_over_views(processor)
    processor._Processor__cache_required_object_ids(Task())
    assert [(type(content), content) for content in handed] == [(memoryview, data)]


def test_writes_whose_answers_are_lost_are_made_again(
    linked: LinkedObjectStorageConnector, server: Connection, tmp_path: Path
) -> None:
    ids = [new_id() for _ in range(60)]
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.2):
            with contextlib.suppress(OSError, ValueError, IndexError):
                os.kill(int((tmp_path / "LOCK").read_text().split()[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for number, object_id in enumerate(ids):
            linked.set_object(object_id, bytes([number]) * 300_000)
    finally:
        stop.set()
        killer.join()
    for number, object_id in enumerate(ids):
        assert bytes(linked.get_object(object_id)) == bytes([number]) * 300_000


def hard_suspend(processor: Processor) -> None:
    processor._resume_event = None


def test_linking_redis(
    processor: Processor, redis: Redis, server: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hard_suspend(processor)
    with caplog.at_level(logging.INFO):
        link(write(tmp_path / "a.toml", backend='"redis"', redis__url=f'"{redis.url}"'))
    assert "object store linked: redis backend" in caplog.text
    check_shared(processor, server)


def check_shared(processor: Processor, server: Connection) -> None:
    linked = processor._connector_storage
    assert isinstance(linked, LinkedObjectStorageConnector)
    ours, theirs, duplicate = (new_id() for _ in range(3))
    linked.set_object(ours, b"ours")
    server.connector.set_object(theirs, b"theirs")
    assert (server.get(ours), linked.get_object(theirs)) == (b"ours", b"theirs")
    linked.duplicate_object_id(theirs, duplicate)
    assert server.get(duplicate) == b"theirs"
    linked._store.close()


def cannot_delete(processor: Processor) -> None:
    def fail(_: ObjectID) -> bool:
        raise ObjectStorageException("connection failure")

    processor._connector_storage.delete_object = fail


def nothing(_: Processor) -> None:
    pass


@pytest.mark.parametrize(
    ("settings", "prepare", "reason"),
    [
        ({"backend": '"memory"'}, nothing, 'backend "memory" keeps'),
        ({"backend": '"tiered"', "local__path": '"/dev/null/objects"'}, nothing, "/dev/null/objects"),
        ({"backend": '"tiered"', "no_such_key": "1"}, nothing, "no_such_key"),
        ({"backend": '"tiered"', "local__slots": "4"}, nothing, "this setting is gone"),
        ({"backend": '"tiered"', "local__durability": '"never"'}, nothing, "never"),
        ({"backend": '"redis"', "redis__key_prefix": '"other:"'}, nothing, "does not come to"),
        ({"backend": '"redis"', "redis__key_prefix": '"other:"'}, cannot_delete, "does not come to"),
    ],
)
def test_what_cannot_be_linked_is_told(
    processor: Processor,
    redis: Redis,
    tmp_path: Path,
    settings: Dict[str, str],
    prepare: Callable[[Processor], None],
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "_SHARED_SECONDS_MAX", 0.3)
    config = write(tmp_path / "a.toml", redis__url=f'"{redis.url}"', **settings)
    prepare(processor)
    server = processor._connector_storage
    link(config)
    assert processor._connector_storage is server
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the object storage server is used instead" in record.getMessage() and reason in record.getMessage()


def test_link_does_nothing_elsewhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    link(tmp_path / "missing.toml")
    assert "--preload of Scaler's workers" in caplog.text
