"""The store's own surface from Python: `scaler_object_storage/_native.pyi`, sentence by sentence."""

import ast
import ctypes
import gc
import os
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Literal, Mapping, Set

import pytest
import scaler_object_storage
from scaler_object_storage import (
    CancelToken,
    ClosedError,
    ConfigError,
    FullError,
    InvalidIdError,
    IoError,
    LengthMismatchError,
    LockedError,
    Object,
    ObjectStore,
    ObjectStoreError,
    Ticket,
    TooLargeError,
    UnreachableError,
    read_config,
)

MIB = 1 << 20


@pytest.fixture(params=["opened", "attached"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "opened":
        opened = ObjectStore(local={"path": tmp_path / "objects", "max_size_mb": 64})
    else:
        opened = ObjectStore.attach(local={"path": tmp_path / "objects", "max_size_mb": 64, "keeper_idle_seconds": 1})
    with opened as store:
        yield store


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, 5 * MIB])
def test_what_is_put_is_read(store: ObjectStore, size: int) -> None:
    data = bytes(number % 251 for number in range(1000)) * (size // 1000) + bytes(size % 1000)
    store.put(b"id", data, b"metadata")
    found = store.get(b"id")
    assert found is not None
    assert (found.data == data, len(found), bytes(found) == data, found.metadata) == (True, size, True, b"metadata")
    assert store.get_bytes(b"id") == data
    assert type(store.get_bytes(b"id")) is bytes


def test_a_missing_object_is_a_value(store: ObjectStore) -> None:
    assert store.get(b"id") is None
    assert store.get_here(b"id") is None
    assert store.get_bytes(b"id") is None
    assert not store.contains(b"id")
    assert b"id" not in store
    assert not store.delete(b"id")
    assert not store.duplicate(b"id", b"new")
    assert not store.duplicate_here(b"id", b"new")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_argument_is_taken(store: ObjectStore, kind: Callable[[bytes], Any]) -> None:
    store.put(kind(b"id"), kind(b"data"), kind(b"metadata"))
    assert store.get_bytes(kind(b"id")) == b"data"
    assert kind(b"id") in store
    assert store.delete(kind(b"id"))


def test_other_arguments_are_refused(store: ObjectStore) -> None:
    # Their addresses would be stored.
    pair: Any = ctypes.py_object * 2
    objects = memoryview(pair("text", None))
    for id, data, metadata, name, reason in (
        ("text", b"data", b"", "id", "bytes-like"),
        (b"id", None, b"", "data", "bytes-like"),
        (b"id", memoryview(b"data")[::2], b"", "data", "one run of bytes"),
        (b"id", objects, b"", "data", "Python objects"),
        (b"id", b"", objects, "metadata", "Python objects"),
    ):
        with pytest.raises(TypeError) as refused:
            store.put(id, data, metadata)  # type: ignore[arg-type]
        # Before Python 3.11 there were no notes.
        told = "\n".join([str(refused.value), *getattr(refused.value, "__notes__", [])])
        assert f"'{name}'" in told and reason in told
    assert store.get(b"id") is None
    store.put(b"id", memoryview((ctypes.c_int32 * 2)(1, 2)))
    assert len(store.get_bytes(b"id") or b"") == 8


def test_a_buffer_is_free_again_after_the_call(store: ObjectStore) -> None:
    data = bytearray(b"data")
    store.put(b"id", data)
    data.extend(b"more")  # BufferError while it is exported
    with pytest.raises(InvalidIdError):
        store.put(b"", data)
    data.clear()
    assert store.get_bytes(b"id") == b"data"


def test_a_read_object_outlives_everything(store: ObjectStore) -> None:
    for size in (10, MIB):
        data = bytes(range(250)) * (size // 250)
        store.put(b"id", data)
        found = store.get(b"id")
        assert found is not None
        view = found.data[10:]
        del found
        store.put(b"id", bytes(size))
        store.delete(b"id")
        store.flush()
        gc.collect()
        assert view.readonly
        assert view == data[10:]
    store.close()
    del store
    gc.collect()
    assert view == data[10:]


def test_a_large_object_is_read_without_a_copy(store: ObjectStore) -> None:
    store.put(b"id", bytes(MIB))
    first, second = store.get(b"id"), store.get(b"id")
    assert first is not None and second is not None

    assert address(first.data) == address(second.data)


def test_python_cannot_make_what_the_store_makes(store: ObjectStore) -> None:
    store.put(b"id", b"data")
    found = store.get(b"id")
    assert found is not None
    exporter = found.data.obj
    for kind in (type(exporter), Object, Ticket, type(store.info())):
        with pytest.raises(TypeError):
            kind()
        with pytest.raises(TypeError):
            object.__new__(kind)


def test_a_writer_commits_at_the_end_of_its_block(store: ObjectStore) -> None:
    with store.writer(b"id", 6, b"metadata") as writer:
        assert writer.write(b"abc") == 3
        assert store.get(b"id") is None
        assert writer.write(bytearray(b"def")) == 3
    found = store.get(b"id")
    assert found is not None
    assert (bytes(found), found.metadata) == (b"abcdef", b"metadata")
    with pytest.raises(ClosedError):
        writer.write(b"g")
    writer.discard()
    assert store.get_bytes(b"id") == b"abcdef"


def test_a_writer_leaves_no_trace_where_it_does_not_commit(store: ObjectStore) -> None:
    with pytest.raises(ZeroDivisionError), store.writer(b"id", 3) as writer:
        writer.write(b"abc")
        raise ZeroDivisionError
    with pytest.raises(LengthMismatchError), store.writer(b"id", 3) as writer:
        writer.write(b"ab")
    with pytest.raises(LengthMismatchError), store.writer(b"id", 3) as writer:
        writer.write(b"abcd")
    with store.writer(b"id", 3) as writer:
        writer.discard()
    store.writer(b"id", 3)
    assert store.get(b"id") is None
    assert store.info().objects == 0


def test_errors_have_a_class_for_each_kind(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidIdError, match="1 to 512 bytes"):
        store.put(b"x" * 513, b"")
    with pytest.raises(TooLargeError, match="6964"):
        store.put(b"id", b"", bytes(MIB + 1))
    with pytest.raises(TooLargeError, match="too large"):
        store.put(b"id", bytes(100 * MIB))
    with pytest.raises(FullError, match="nothing was stored"):
        for number in range(100):
            store.put(b"%d" % number, os.urandom(10 * MIB))
    with pytest.raises(LockedError, match="objects is in use by process"):
        ObjectStore(local={"path": tmp_path / "objects", "lock_wait_ms": 0})
    with pytest.raises(ConfigError, match="local.pth: there is no such setting"):
        ObjectStore(local={"pth": "/"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="local.max_size_mb"):
        ObjectStore(local={"max_size_mb": -1})
    with pytest.raises(ConfigError, match="a value of type list"):
        ObjectStore(local={"path": []})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='"disc" is not one of'):
        ObjectStore(backend="disc")  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(IoError, match="file") as raised:
        ObjectStore(local={"path": tmp_path / "file"})
    assert isinstance(raised.value, OSError) and raised.value.errno
    with pytest.raises(UnreachableError, match="127.0.0.1:1") as unreachable:
        ObjectStore(backend="redis", redis={"url": "redis://:secret@127.0.0.1:1/0"}).get(b"id")
    assert isinstance(unreachable.value, ConnectionError)
    assert "secret" not in str(unreachable.value)


def test_every_error_of_the_package_is_an_object_store_error() -> None:
    errors = [value for name, value in vars(scaler_object_storage).items() if name.endswith("Error")]
    assert len(errors) > 10
    for error in errors:
        assert issubclass(error, ObjectStoreError)


def test_a_wait_ends_with_the_object_the_timeout_or_the_token(store: ObjectStore) -> None:
    assert store.wait(b"id", timeout=0.01) is None
    assert store.wait(b"id", timeout=-1) is None
    token = CancelToken()
    threading.Timer(0.05, token.cancel).start()
    assert store.wait(b"id", cancel=token) is None
    assert token.cancelled
    assert store.wait(b"id", cancel=token) is None
    threading.Timer(0.05, store.put, (b"id", b"data")).start()
    found = store.wait(b"id")
    assert found is not None and bytes(found) == b"data"
    assert store.wait(b"id", 0) is not None
    assert store.info().waiting_requests == 0
    with pytest.raises(ValueError):
        store.wait(b"other", float("nan"))


def test_closing_ends_waits_and_later_calls(store: ObjectStore) -> None:
    raised: List[BaseException] = []

    def wait() -> None:
        try:
            store.wait(b"id")
        except ClosedError as error:
            raised.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    until(lambda: store.info().waiting_requests == 1)
    store.close()
    waiter.join()
    assert len(raised) == 1
    assert store.closed
    store.close()
    with pytest.raises(ClosedError):
        store.get(b"id")


def test_parked_requests_are_answered_on_another_thread(store: ObjectStore) -> None:
    answers: List[object] = []
    main = threading.current_thread()
    ticket = store.get_or_park(
        b"original", lambda found: answers.append((bytes(found), threading.current_thread() is main))
    )
    assert isinstance(ticket, Ticket)
    parked = store.duplicate_or_park(b"original", b"new", answers.append)
    assert parked is not None
    store.put(b"original", b"data")
    until(lambda: len(answers) == 2)
    assert answers[1] is None
    assert answers[0] == (b"data", False)
    assert store.get_bytes(b"new") == b"data"
    assert not ticket.take_back()
    found = store.get_or_park(b"original", answers.append)
    assert isinstance(found, Object) and bytes(found) == b"data"
    assert store.duplicate_or_park(b"original", b"newer", answers.append) is None
    assert store.delete_later(b"newer", answers.append) is True
    assert len(answers) == 2


def test_a_ticket_that_is_dropped_takes_its_request_back(store: ObjectStore) -> None:
    answers: List[object] = []
    kept = store.get_or_park(b"id", answers.append)
    dropped = store.get_or_park(b"id", answers.append)
    assert store.info().waiting_requests == 2
    del dropped
    assert store.info().waiting_requests == 1
    assert isinstance(kept, Ticket) and kept.take_back()
    assert store.info().waiting_requests == 0
    store.put(b"id", b"data")
    assert answers == []


def test_an_answer_that_raises_is_reported_and_the_next_one_comes(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: List[Any] = []
    monkeypatch.setattr("sys.unraisablehook", reported.append)
    answers: List[object] = []

    def fail(_: object) -> None:
        raise ZeroDivisionError

    tickets = [store.get_or_park(b"id", fail), store.get_or_park(b"id", answers.append)]
    store.put(b"id", b"data")
    until(lambda: answers)
    assert [report.exc_type for report in reported] == [ZeroDivisionError]
    del tickets


def test_what_a_store_holds_is_told(store: ObjectStore, tmp_path: Path) -> None:
    store.put(b"id", bytes(1000), bytes(24))
    store.duplicate(b"id", b"new")
    info = store.info()
    assert (info.backend, info.place) == ("local", str(tmp_path / "objects"))
    assert (info.objects, info.payloads, info.payload_bytes) == (2, 1, 1024)
    assert info.capacity_bytes == 64 * MIB
    assert 1024 < info.physical_bytes < info.capacity_bytes
    assert (info.waiting_requests, info.waiting_ids, info.oldest_wait, info.damaged_objects) == (0, 0, 0.0, 0)
    assert "2 objects" in repr(info) and "local" in repr(store)
    store.clear()
    assert store.info().objects == 0


def fields_of(stub: str) -> Set[str]:
    """The fields that the types promise of a dictionary."""
    tree = ast.parse((Path(__file__).parents[2] / "python/scaler_object_storage/_native.pyi").read_text())
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == stub)
    return {line.target.id for line in found.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)}


def test_everything_worth_seeing_is_told_as_the_types_say(store: ObjectStore) -> None:
    store.put(b"id", b"12345")
    assert store.get(b"id") is not None and store.get(b"nothing") is None
    stats = store.stats()
    assert stats["operations"]["puts"] == stats["operations"]["hits"] == stats["operations"]["misses"] == 1
    assert (stats["objects"], stats["operations"]["read_bytes"]) == (1, 5)
    assert (stats["health"]["state"], stats["health"]["reasons"]) == ("ok", [])
    # The keeper's, where the store is attached.
    assert (stats["process"]["id"] == os.getpid()) == (stats["keeper"] is None)
    parts: Dict[str, Mapping[str, object]] = {"_Stats": stats, "_OperationStats": stats["operations"]}
    parts.update({"_WaitStats": stats["waits"], "_ProcessStats": stats["process"]})
    assert stats["local"] is not None and stats["redis"] is None
    parts["_LocalStats"] = stats["local"]
    for stub, part in parts.items():
        assert set(part) == fields_of(stub), stub
    store.close()
    with pytest.raises(ClosedError):
        store.stats()


def test_what_is_stored_is_listed_and_described(store: ObjectStore) -> None:
    assert list(store.list()) == []
    for number in range(1500):
        store.put(number.to_bytes(2, "big"), bytes(number % 7), b"m")
    listed = list(store.list())
    assert sorted(found.id for found in listed) == [number.to_bytes(2, "big") for number in range(1500)]
    assert {found.data_bytes for found in listed} == set(range(7))
    found = store.describe(b"\x00\x06", verify=True)
    assert found is not None and (found.id, found.data_bytes, found.metadata_bytes) == (b"\x00\x06", 6, 1)
    assert found.state != "damaged" and found.damage is None and found.place and found.expires_at is None
    assert found.version is not None and found.stored_at is not None and abs(found.stored_at - time.time()) < 3600
    assert store.describe(b"nothing") is None
    assert repr(found).startswith("<Listed: 0006, 6 bytes")
    rest = store.list()
    next(rest)
    store.close()
    with pytest.raises(ClosedError):
        list(store.list())


def test_a_store_opens_as_the_config_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[scheduler]\n[object_storage_server]\nlocal.path = "{tmp_path}/objects"\nlocal.max_size_mb = 32\n')
    with ObjectStore.from_config(config) as store:
        assert (store.info().place, store.info().capacity_bytes) == (f"{tmp_path}/objects", 32 * MIB)
    monkeypatch.setenv("SCALER_OBJECT_STORAGE_BACKEND", "memory")
    with ObjectStore.from_config(str(config)) as store:
        assert store.info().backend == "memory"
    with pytest.raises(IoError, match="missing.toml"):
        ObjectStore.from_config(tmp_path / "missing.toml")


def test_a_config_file_is_read_as_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "scaler.toml"
    config.write_text("[object_storage_server]\nbackend = 'MEMORY'\n[object_storage_server.redis]\nkey-prefix = 'a:'\n[scheduler]\n")
    monkeypatch.setenv("SCALER_OBJECT_STORAGE_MEMORY_MAX_SIZE_MB", "16")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    settings = read_config(config)
    assert settings == {
        "backend": "memory",
        "memory": {"max_size_mb": 16},
        "local": {"path": str(tmp_path / "scaler_object_storage")},
        "redis": {"key_prefix": "a:"},
    }
    with ObjectStore(**settings) as store:
        assert store.info().capacity_bytes == 16 << 20
    config.write_text("[object_storage_server]\nbackend = 'elsewhere'")
    with pytest.raises(ConfigError, match="elsewhere"):
        read_config(config)


@pytest.mark.parametrize("backend", ["local", "memory"])
def test_objects_live_for_a_time(backend: Literal["local", "memory"], tmp_path: Path) -> None:
    with ObjectStore(backend=backend, local={"path": tmp_path, "object_ttl_seconds": 1}, memory={"object_ttl_seconds": 1}) as store:
        store.put(b"id", b"data")
        until(lambda: store.get(b"id") is None)
        assert not store.delete(b"id")


def test_other_threads_run_while_a_call_waits(store: ObjectStore) -> None:
    ticks: List[float] = []
    token = CancelToken()

    def tick() -> None:
        for _ in range(20):
            ticks.append(time.monotonic())
            time.sleep(0.001)
        token.cancel()

    thread = threading.Thread(target=tick)
    thread.start()
    assert store.wait(b"id", cancel=token) is None  # would never end if it kept the others from running
    thread.join()
    assert len(ticks) == 20


class PyBuffer(ctypes.Structure):
    """The beginning of Python's `Py_buffer`, and room for the rest."""

    _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t), ("rest", ctypes.c_byte * 128)]


def address(view: memoryview) -> int:
    """Where the bytes are."""
    buffer = PyBuffer()
    assert ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0) == 0
    where: int = buffer.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return where


def until(condition: Callable[[], object]) -> None:
    """Generous: it only bounds how long a defect takes to be reported."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
