"""The API of Scaler's Python Redis backend, sentence by sentence, for both classes where it applies to both."""

import importlib
import inspect
import itertools
import logging
import os
import struct
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Union

import pytest
import redis
from scaler_object_storage import ClosedError, ConfigError, InvalidIdError, ObjectStore, RefusedError
from scaler_object_storage.redis_backend import RedisObjectStorageBackend, TieredObjectStorageBackend, _human

from redis_server import RedisServer

MIB = 1 << 20
WAIT_SECONDS = 30
LONG_IDS = [b"", b"i" * 513, bytes(65_535)]
IDS = [b"a", b"\x00", bytes(range(256)), b"i" * 512, *LONG_IDS]

Backend = Union[RedisObjectStorageBackend, TieredObjectStorageBackend]
Open = Callable[..., Backend]

numbers = itertools.count()


@pytest.fixture
def prefix() -> str:
    return f"test {next(numbers)}:"


@pytest.fixture(scope="module")
def closing(redis_server: RedisServer) -> Iterator[Callable[[Backend], None]]:
    """Closes backends beside the next tests: it takes each a quarter of a second."""
    with ThreadPoolExecutor(4) as threads:
        closed: List["Future[None]"] = []
        yield lambda backend: closed.append(threads.submit(backend.close))
        for future in closed:
            future.result()


@pytest.fixture(params=["redis", "tiered"])
def opening(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    closing: Callable[[Backend], None],
    prefix: str,
    tmp_path: Path,
) -> Iterator[Open]:
    """Opens backends of one class, each a node of its own."""
    opened: List[Backend] = []

    def open_one(**given: Any) -> Backend:
        settings: Dict[str, Any] = {"redis_url": redis_server.url, "key_prefix": prefix, **given}
        backend: Backend
        if request.param == "redis":
            backend = RedisObjectStorageBackend(**settings)
        else:
            path = tmp_path / f"node {len(opened)}"
            backend = TieredObjectStorageBackend(local_path=path, local_max_size_mb=256, **settings)
        opened.append(backend)
        return backend

    yield open_one
    for backend in opened:
        closing(backend)


@pytest.fixture
def backend(opening: Open) -> Backend:
    return opening()


@pytest.fixture
def plain(redis_server: RedisServer) -> "Iterator[redis.Redis]":
    """What stands in Redis, as it is."""
    with redis.Redis(port=redis_server.port) as client:
        yield client


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"after {WAIT_SECONDS} s, still not: {what}"
        time.sleep(0.005)


def stored_long_ago(client: Any, prefix: str, object_id: bytes, data: bytes, metadata: bytes) -> None:
    """As Scaler's Python Redis backend does it."""
    value = struct.pack("<I", len(metadata)) + metadata + data
    with client.pipeline() as pipeline:
        pipeline.set(prefix + object_id.hex(), value).incrby(f"{prefix}_meta:total_size", len(value)).execute()


@pytest.mark.parametrize("object_id", IDS, ids=lambda object_id: f"{len(object_id)} bytes")
def test_an_object_of_any_id_is_stored_read_and_deleted(backend: Backend, object_id: bytes) -> None:
    assert (backend.get(object_id), backend.exists(object_id), backend.delete(object_id)) == (None, False, False)
    assert backend.put(object_id, b"Hello, World!", b"text/plain") is True
    assert backend.get(object_id) == (b"Hello, World!", b"text/plain")
    assert backend.exists(object_id) is True
    assert backend.put(object_id, b"other") is True
    assert backend.get(object_id) == (b"other", b"")
    assert backend.delete(object_id) is True
    assert (backend.get(object_id), backend.exists(object_id), backend.delete(object_id)) == (None, False, False)


def test_an_id_beyond_65535_bytes_is_refused(backend: Backend) -> None:
    for call in (lambda: backend.put(bytes(65_536), b""), lambda: backend.get(bytes(65_536))):
        with pytest.raises(InvalidIdError):
            call()


@pytest.mark.parametrize("size", [0, 1, 100_000, 3 * MIB])
def test_get_returns_two_bytes_objects(backend: Backend, size: int) -> None:
    for given in (bytes(size), bytearray(size), memoryview(bytes(size))):
        backend.put(bytearray(b"id"), given, memoryview(b"metadata"))
        found = backend.get(memoryview(b"id"))
        assert found == (bytes(size), b"metadata")
        assert [type(part) for part in found or ()] == [bytes, bytes]


def test_data_over_the_limit_is_refused_and_logged_whatever_its_metadata(
    opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    backend = opening(max_object_size_mb=1)
    most = os.urandom(MIB)
    for object_id in (b"id", b"i" * 600):
        assert backend.put(object_id, most, bytes(MIB)) is True
        assert backend.get(object_id) == (most, bytes(MIB))
        with caplog.at_level(logging.WARNING):
            assert backend.put(object_id, most + b"1", b"") is False
            assert backend.put(object_id, b"", bytes(MIB + 1)) is False
        assert backend.get(object_id) == (most, bytes(MIB)), "what stood there before is still there"
    warnings = [record.getMessage() for record in caplog.records if record.name.endswith(".redis_backend")]
    assert len(warnings) == 4
    assert warnings[0] == "object 6964: 1048577 bytes, the limit is 1 MiB (max_object_size_mb): it is not stored"


def test_a_limit_of_zero_is_none(opening: Open) -> None:
    backend = opening(max_object_size_mb=0)
    assert backend.put(b"id", bytes(3 * MIB))
    with pytest.raises(ValueError):
        opening(max_object_size_mb=-1)


def test_size_is_the_bytes_of_what_is_stored_and_zero_after_clear(backend: Backend) -> None:
    assert backend.size() == 0
    backend.put(b"one", bytes(1000), b"meta")
    wait_until(lambda: backend.size() == 1004, "one object")
    backend.put(b"one", bytes(range(10)), b"")
    backend.put(b"other", bytes(5), b"m")
    backend.put(b"", b"in Redis alone", b"")
    wait_until(lambda: backend.size() == 10 + 6 + 14, "three objects")
    backend.delete(b"other")
    wait_until(lambda: backend.size() == 10 + 14, "two objects")
    backend.clear()
    assert backend.size() == 0
    assert backend.get_info()["object_count"] == 0
    assert [backend.get(object_id) for object_id in (b"one", b"other", b"")] == [None, None, None]
    backend.put(b"one", b"again")
    wait_until(lambda: backend.size() == 5, "an object after clear")


def test_what_is_on_its_way_to_redis_is_cleared_too(backend: Backend) -> None:
    for number in range(8):
        backend.put(b"%d" % number, os.urandom(2 * MIB))
    backend.clear()
    assert (backend.size(), backend.get_info()["object_count"]) == (0, 0)


def test_what_was_just_put_counts_at_once(backend: Backend) -> None:
    for number in range(10):
        backend.put(b"%d" % number, b"%d" % number)
        assert (backend.size(), backend.get_info()["object_count"]) == (number + 1, number + 1)
    backend.clear()
    assert (backend.size(), backend.get_info()["object_count"]) == (0, 0)


def test_info_has_the_promised_fields(opening: Open, plain: "redis.Redis") -> None:
    backend = opening(max_object_size_mb=7)
    for number in range(3):
        backend.put(b"%d" % number, bytes([number]) * 1000, b"meta")
    wait_until(lambda: backend.get_info()["total_size_bytes"] == 3 * 1004, "three objects in Redis")
    info = backend.get_info()
    is_tiered = isinstance(backend, TieredObjectStorageBackend)
    assert info["type"] == ("tiered" if is_tiered else "redis")
    assert (info["object_count"], info["total_size_bytes"], info["max_object_size_mb"]) == (3, 3 * 1004, 7)
    used = plain.info("memory")["used_memory"]
    assert 0.5 < info["redis_used_memory"] / used < 2
    assert info["redis_used_memory_human"] == _human(info["redis_used_memory"])
    if is_tiered:
        assert (info["local_object_count"], info["local_size_bytes"]) == (3, 3 * 1004)
        assert 0 < info["local_disk_bytes"] <= info["local_max_disk_bytes"] == 256 * MIB


def test_memory_is_written_as_redis_writes_it(plain: "redis.Redis") -> None:
    amounts = {0: "0B", 1023: "1023B", 1024: "1.00K", 1_100_000: "1.05M", 3 << 30: "3.00G", 5 << 40: "5.00T"}
    assert {amount: _human(amount) for amount in amounts} == amounts
    info = plain.info("memory")
    for name in ("used_memory", "used_memory_peak", "total_system_memory"):
        assert _human(info[name]) == info[f"{name}_human"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("", "sub:"), ("", "_meta:"), ("*:", "x:"), ("?", "x"), ("[x]", "x"), ("[^y]", "x"), ("\\x", "x"), ("a", "ab")],
)
def test_two_prefixes_never_see_each_other(opening: Open, prefix: str, first: str, second: str) -> None:
    """The first is the beginning of the second, or a pattern that it matches."""
    one, two = opening(key_prefix=prefix + first), opening(key_prefix=prefix + second)
    for object_id in (b"id", b"", bytes(600)):
        one.put(object_id, b"1")
        assert two.get(object_id) is None and not two.exists(object_id) and not two.delete(object_id)
        two.put(object_id, b"22")
    for backend, data in ((one, b"1"), (two, b"22")):
        wait_until(lambda: backend.size() == 3 * len(data), "three objects in Redis")
        assert backend.get_info()["object_count"] == 3
        assert backend.get(b"id") == (data, b"")
    two.clear()
    assert (one.size(), two.size()) == (3, 0)
    two.put(b"id", b"22")
    one.clear()
    assert (one.size(), one.get(b""), two.get(b"id")) == (0, None, (b"22", b""))


def test_what_earlier_users_stored_is_read(backend: Backend, prefix: str, plain: "redis.Redis") -> None:
    objects = {b"my_object": (b"Hello, World!", b"text/plain"), b"": (b"", b""), bytes(600): (bytes(2 * MIB), b"m")}
    for object_id, (data, metadata) in objects.items():
        stored_long_ago(plain, prefix, object_id, data, metadata)
    for object_id, found in objects.items():
        assert backend.exists(object_id)
        assert backend.get(object_id) == found
    info = backend.get_info()
    assert (info["object_count"], info["total_size_bytes"]) == (3, 23 + 2 * MIB + 1)
    assert backend.delete(b"my_object") is True
    assert backend.get(b"my_object") is None
    assert backend.put(b"", b"new") is True
    assert backend.get(b"") == (b"new", b"")
    backend.clear()
    assert (backend.size(), backend.exists(bytes(600))) == (0, False)


def test_several_backends_share_one_set_of_objects(opening: Open, prefix: str, redis_server: RedisServer) -> None:
    one, other = opening(), opening()
    for object_id in (b"id", b"", b"i" * 600):
        one.put(object_id, b"data", b"m")
        wait_until(lambda: other.get(object_id) == (b"data", b"m"), "the other sees it")
        other.delete(object_id)
        wait_until(lambda: one.get(object_id) is None, "the first sees that it is deleted")
    one.put(b"id", b"data")
    with ObjectStore(backend="redis", redis={"url": redis_server.url, "key_prefix": prefix}) as store:
        assert store.wait(b"id", WAIT_SECONDS) is not None
        store.put(b"id", b"of the store")
        wait_until(lambda: one.get(b"id") == (b"of the store", b""), "what the store wrote")


def test_a_closed_backend_says_so(opening: Open) -> None:
    with opening() as backend:
        backend.put(b"id", b"data")
    for call in (
        lambda: backend.put(b"id", b"data"),
        lambda: backend.get(b"id"),
        lambda: backend.get(b""),
        lambda: backend.exists(b"id"),
        lambda: backend.delete(b"id"),
        backend.size,
        backend.clear,
        backend.get_info,
    ):
        with pytest.raises(ClosedError):
            call()
    backend.close()


FORK = """
import os, signal, sys
from scaler_object_storage import ForkedError
from scaler_object_storage.redis_backend import RedisObjectStorageBackend, TieredObjectStorageBackend
kind, url, prefix, directory = sys.argv[1:]
if kind == "redis":
    backend = RedisObjectStorageBackend(url, key_prefix=prefix)
else:
    backend = TieredObjectStorageBackend(directory, url, key_prefix=prefix, local_max_size_mb=256)
backend.put(b"id", b"data")
if kind == "tiered":
    backend._opening.acquire()  # as another thread may do at the moment of the fork
child = os.fork()
if child == 0:
    signal.alarm(30)  # ends it where a call hangs
    raised = 0
    for object_id in (b"id", b"", b"i" * 600):
        for call in (lambda id: backend.put(id, b""), backend.get, backend.exists, backend.delete):
            try:
                call(object_id)
            except ForkedError:
                raised += 1
    for call in (backend.size, backend.clear, backend.get_info):
        try:
            call()
        except ForkedError:
            raised += 1
    backend.close()
    os._exit(raised)
if kind == "tiered":
    backend._opening.release()
assert os.waitpid(child, 0)[1] == 15 << 8
assert backend.get(b"id") == (b"data", b"")
backend.close()
"""


@pytest.mark.parametrize("kind", ["redis", "tiered"])
def test_in_a_forked_child_every_call_says_so_at_once(
    kind: str, redis_server: RedisServer, prefix: str, tmp_path: Path
) -> None:
    # Python 3.12 and newer warn of forks beside threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, kind, redis_server.url, prefix, tmp_path]
    subprocess.run([str(word) for word in command], check=True, timeout=60)


def test_nothing_is_left_of_a_closed_backend(mortal_redis: RedisServer, tmp_path: Path) -> None:
    with redis.Redis(port=mortal_redis.port) as client:
        with TieredObjectStorageBackend(tmp_path, mortal_redis.url, local_max_size_mb=256) as backend:
            backend.put(b"id", b"data")
            backend.put(b"", b"in Redis alone")
            assert len(client.client_list()) > 1
        wait_until(lambda: len(client.client_list()) == 1, "no connection but this one")


def test_parameters_are_positional_too_and_their_defaults_are_the_documented_ones(
    redis_server: RedisServer, prefix: str, tmp_path: Path
) -> None:
    parameters = inspect.signature(RedisObjectStorageBackend).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "redis_url": "redis://localhost:6379/0",
        "max_object_size_mb": 100,
        "key_prefix": "scaler:obj:",
        "connection_pool_size": 10,
    }
    tiered = dict(inspect.signature(TieredObjectStorageBackend).parameters)
    for name, parameter in parameters.items():
        assert tiered[name].default == parameter.default
    with RedisObjectStorageBackend(redis_server.url, 1, prefix, 2) as backend:
        assert backend.put(b"id", bytes(MIB + 1)) is False
        backend.put(b"id", b"data")
    with TieredObjectStorageBackend(tmp_path / "objects", redis_server.url, 1, prefix, 2, 256) as backend_tiered:
        assert backend_tiered.put(b"id", bytes(MIB + 1)) is False
        assert backend_tiered.get(b"id") == (b"data", b"")


def test_a_setting_that_is_not_valid_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="url"):
        RedisObjectStorageBackend("http://localhost")
    with pytest.raises(ValueError, match="local_path"):
        TieredObjectStorageBackend("redis://localhost:6379/0")  # where the other class has its first parameter


def test_a_prefix_that_may_share_keys_with_another_is_told(
    redis_server: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    for end in (":", "x", "F", "f"):
        RedisObjectStorageBackend(redis_server.url, key_prefix=prefix + end).close()
    [line] = [record.getMessage() for record in caplog.records if record.name.endswith(".redis_backend")]
    assert repr(prefix + "f") in line and "ends in a hexadecimal digit" in line


def test_redis_backend_away_is_a_connection_error(mortal_redis: RedisServer) -> None:
    backend = RedisObjectStorageBackend(mortal_redis.url)
    backend.put(b"id", b"data")
    mortal_redis.kill()
    with pytest.raises(ConnectionError):
        RedisObjectStorageBackend(mortal_redis.url)
    for call in (
        lambda: backend.put(b"id", b"data"),
        lambda: backend.get(b"id"),
        lambda: backend.exists(b"id"),
        lambda: backend.delete(b"id"),
        backend.size,
        backend.clear,
        backend.get_info,
    ):
        with pytest.raises(ConnectionError):
            call()
    mortal_redis.start()
    assert backend.get(b"id") is None
    assert backend.put(b"id", b"again") and backend.size() == 5
    backend.close()


def test_tiered_works_on_while_redis_is_away(
    mortal_redis: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 10."""
    mortal_redis.kill()
    with caplog.at_level(logging.WARNING):
        backend = TieredObjectStorageBackend(tmp_path, mortal_redis.url, local_max_size_mb=256)
        wait_until(lambda: "cannot be reached" in caplog.text, "a warning that Redis is away")
    assert backend.put(b"id", b"data", b"m")
    assert backend.get(b"id") == (b"data", b"m")
    assert backend.exists(b"id")
    info = backend.get_info()
    assert (info["object_count"], info["total_size_bytes"], backend.size()) == (1, 5, 5)
    assert (info["redis_used_memory"], info["redis_used_memory_human"]) == (None, None)
    for call in (lambda: backend.get(b"elsewhere"), lambda: backend.put(b"", b"in Redis alone"), backend.clear):
        with pytest.raises(ConnectionError):
            call()
    assert backend.get_info()["object_count"] == 0, "clear has deleted what is on this node"
    assert backend.put(b"id", b"data")
    mortal_redis.start()
    with RedisObjectStorageBackend(mortal_redis.url) as other:
        wait_until(lambda: other.get(b"id") == (b"data", b""), "it is pushed when Redis is back")
    assert backend.put(b"", b"in Redis alone") and backend.get(b"") == (b"in Redis alone", b"")
    backend.close()


def test_what_redis_refuses_is_an_error_of_its_own(redis_server: RedisServer, prefix: str) -> None:
    with redis.Redis(port=redis_server.port) as client, RedisObjectStorageBackend(
        redis_server.url, key_prefix=prefix
    ) as backend:
        client.rpush(prefix + b"id".hex(), "a list")
        with pytest.raises(RefusedError):
            backend.get(b"id")


PROGRAM = """
from scaler.object_storage.redis_backend import RedisObjectStorageBackend
backend = RedisObjectStorageBackend(redis_url="redis://localhost:6379/0", max_object_size_mb=100)
backend.put(b"my_object", b"Hello, World!", b"text/plain")
data, metadata = backend.get(b"my_object")
backend.exists(b"my_object"); backend.delete(b"my_object")
info = backend.get_info(); info["object_count"], info["total_size_bytes"]
"""


def test_the_documented_program_runs(redis_server: RedisServer) -> None:
    program = PROGRAM.replace("redis://localhost:6379/0", redis_server.url)
    checks = "\nassert (data, metadata, info['object_count']) == (b'Hello, World!', b'text/plain', 0), (data, info)\n"
    subprocess.run([sys.executable, "-c", program + checks], check=True, timeout=60)


def test_where_scaler_is_not_installed_its_namespace_is_made_up_of_our_module() -> None:
    ours = importlib.import_module("scaler.object_storage.redis_backend")
    assert ours.RedisObjectStorageBackend is RedisObjectStorageBackend
    assert ours.TieredObjectStorageBackend is TieredObjectStorageBackend
    assert sorted(ours.__all__) == ["RedisObjectStorageBackend", "TieredObjectStorageBackend"]
    assert ours.__file__ is not None
    beside = Path(ours.__file__).parent
    assert not [path.name for path in (*beside.iterdir(), *beside.parent.iterdir()) if path.name == "__init__.py"]
