"""Awaitables for asyncio."""

import asyncio
import threading
from pathlib import Path
from typing import Iterator, List

import pytest
from scaler_object_storage import ClosedError, InvalidIdError, Object, ObjectStore


@pytest.fixture(params=["memory", "opened", "attached"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "memory":
        opened = ObjectStore(backend="memory")
    elif request.param == "opened":
        opened = ObjectStore(local={"path": tmp_path / "objects", "max_size_mb": 64})
    else:
        opened = ObjectStore.attach(local={"path": tmp_path / "objects", "max_size_mb": 64, "keeper_idle_seconds": 1})
    with opened as store:
        yield store


def test_awaitables_do_what_methods_do(store: ObjectStore) -> None:
    async def everything() -> None:
        assert await store.get_async(b"id") is None
        assert not await store.contains_async(b"id")
        for size in (0, 10, 1000, 100_000, 3 << 20):
            data = bytes(size)
            await store.put_async(b"id", data, b"metadata")
            found = await store.get_async(b"id")
            assert found is not None
            assert (found.data == data, found.metadata) == (True, b"metadata")
            assert await store.contains_async(b"id")
            assert await store.duplicate_async(b"id", b"copy")
            assert (await store.wait_async(b"copy")).data == data
            assert await store.delete_async(b"id")
            assert not await store.delete_async(b"id")
            assert await store.delete_async(b"copy")
        await store.put_async(b"id", bytearray(b"data"))
        with pytest.raises(InvalidIdError):
            await store.get_async(bytes(100_000))
        with pytest.raises(InvalidIdError):
            await store.put_async(bytes(100_000), b"")

    asyncio.run(everything())


def test_many_wait_without_a_thread_each(store: ObjectStore) -> None:
    async def everything() -> None:
        waits = [store.wait_async(b"%d" % number) for number in range(300)]
        for number in range(300):
            await store.put_async(b"%d" % number, b"data %d" % number)
        found: List[Object] = await asyncio.gather(*waits)
        assert [bytes(found) for found in found] == [b"data %d" % number for number in range(300)]

    asyncio.run(everything())


def test_a_wait_is_answered_by_another_thread(store: ObjectStore) -> None:
    async def everything() -> None:
        wait = store.wait_async(b"id")
        while store.info().waiting_requests == 0:
            await asyncio.sleep(0.001)
        thread = threading.Thread(target=store.put, args=(b"id", b"data"))
        thread.start()
        assert bytes(await wait) == b"data"
        thread.join()

    asyncio.run(everything())


def test_a_cancelled_wait_is_taken_back(store: ObjectStore) -> None:
    async def everything() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(store.wait_async(b"never"), 0.05)
        cancelled = store.wait_async(b"never")
        cancelled.cancel()
        while store.info().waiting_requests > 0:
            await asyncio.sleep(0.001)

    asyncio.run(everything())


def test_a_wait_ends_with_its_store(tmp_path: Path) -> None:
    async def everything() -> None:
        store = ObjectStore(local={"path": tmp_path / "objects", "max_size_mb": 64})
        wait = store.wait_async(b"never")
        while store.info().waiting_requests == 0:
            await asyncio.sleep(0.001)
        store.close()
        with pytest.raises(ClosedError):
            await wait
        with pytest.raises(ClosedError):
            await store.wait_async(b"never")

    asyncio.run(everything())


def test_a_loop_that_has_ended_is_not_told(tmp_path: Path) -> None:
    store = ObjectStore(local={"path": tmp_path / "objects", "max_size_mb": 64})

    async def begin() -> "asyncio.Future[Object]":
        return store.wait_async(b"id")

    forgotten = asyncio.run(begin())
    store.put(b"id", b"data")
    assert not forgotten.done()
    store.close()


def test_there_has_to_be_a_loop(store: ObjectStore) -> None:
    for call in (store.get_async, store.wait_async, store.delete_async):
        with pytest.raises(RuntimeError, match="no running event loop"):
            call(b"id")
