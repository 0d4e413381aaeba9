"""Scaler's Python Redis backend, and why to keep a copy on the node.

    python examples/redis_backend_demo.py [REDIS_URL]

Without an argument the Redis is that of the environment variable REDIS_URL, or redis://localhost:6379/0. What is stored
there is deleted at the end.
"""

import logging
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Callable, List

from scaler.object_storage.redis_backend import RedisObjectStorageBackend, TieredObjectStorageBackend

DEFAULT_URL = "redis://localhost:6379/0"
ROUNDS = 100
SIZES = {"1 KiB": 1 << 10, "64 KiB": 1 << 16, "1 MiB": 1 << 20}

HOW_TO_START_ONE = """
Start one, for example with one of these, and run this again:

    docker run --rm -p 6379:6379 redis
    apt install redis-server && redis-server
    brew install redis && redis-server

or say where there is one: python examples/redis_backend_demo.py redis://HOST:PORT/0"""


def main(url: str) -> int:
    prefix = f"demo:{secrets.token_hex(8)}:"
    try:
        backend = RedisObjectStorageBackend(redis_url=url, key_prefix=prefix)
    except ConnectionError as error:
        print(f"There is no Redis to show anything with: {error}.\n{HOW_TO_START_ONE}", file=sys.stderr)
        return 1
    with backend, tempfile.TemporaryDirectory() as directory:
        store_and_read(backend)
        settings = {"redis_url": url, "key_prefix": prefix}
        with TieredObjectStorageBackend(Path(directory, "a"), local_max_size_mb=256, **settings) as node_a:
            with TieredObjectStorageBackend(Path(directory, "b"), local_max_size_mb=256, **settings) as node_b:
                share(node_a, node_b)
                compare(backend, node_b)
                node_b.clear()
    print(
        f"\nWhat is left in Redis begins with {prefix}: that the objects were deleted, for an hour, and four keys of the prefix "
        "itself, which stay."
    )
    return 0


def store_and_read(backend: RedisObjectStorageBackend) -> None:
    title("The Redis backend")
    backend.put(b"my_object", b"Hello, World!", b"text/plain")
    print("put    my_object")
    print("get   ", backend.get(b"my_object"))
    print("exists", backend.exists(b"my_object"))
    for name, value in backend.get_info().items():
        print(f"info   {name:24} {value}")
    print("delete", backend.delete(b"my_object"))
    print("get   ", backend.get(b"my_object"))


def share(node_a: TieredObjectStorageBackend, node_b: TieredObjectStorageBackend) -> None:
    title("Two nodes, each with a directory of its own, share one set of objects")
    node_a.put(b"shared", b"from node A", b"")
    started = time.perf_counter()
    while node_b.get(b"shared") is None:
        time.sleep(0.0005)
    print(f"node A puts, and node B reads {node_b.get(b'shared')} {milliseconds(started)} later")
    node_b.delete(b"shared")
    started = time.perf_counter()
    while node_a.exists(b"shared"):
        time.sleep(0.0005)
    print(f"node B deletes, and node A no longer has it {milliseconds(started)} later")


def compare(backend: RedisObjectStorageBackend, node: TieredObjectStorageBackend) -> None:
    title(f"A copy on the node beside a round trip to Redis: microseconds, medians of {ROUNDS}")
    print(f"{'':8}{'get: node':>11}{'Redis':>9}{'ratio':>8}{'put: node':>15}{'Redis':>9}{'ratio':>8}")
    for name, size in SIZES.items():
        data, object_id = os.urandom(size), name.encode()
        backend.put(object_id, data)
        node.get(object_id)  # fetches it from Redis, and keeps it
        get_node, get_redis = in_turns(lambda _: node.get(object_id), lambda _: backend.get(object_id))
        # Other bytes each time: equal ones would be stored only once.
        others = [number.to_bytes(8, "little") + data[8:] for number in range(ROUNDS)]
        put_node, put_redis = in_turns(
            lambda turn: node.put(b"node", others[turn]), lambda turn: backend.put(b"redis", others[turn])
        )
        print(
            f"{name:8}{get_node:11.1f}{get_redis:9.1f}{get_redis / get_node:7.1f}x"
            f"{put_node:15.1f}{put_redis:9.1f}{put_redis / put_node:7.1f}x"
        )


def in_turns(*calls: Callable[[int], object]) -> List[float]:
    """Microseconds that each of the calls takes, which are told the turn."""
    times: List[List[float]] = [[] for _ in calls]
    for turn in range(ROUNDS):
        for call, taken in zip(calls, times):
            started = time.perf_counter_ns()
            call(turn)
            taken.append((time.perf_counter_ns() - started) / 1000)
    return [median(taken) for taken in times]


def title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def milliseconds(since: float) -> str:
    return f"{(time.perf_counter() - since) * 1000:.1f} ms"


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    try:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("REDIS_URL", DEFAULT_URL)))
    except BrokenPipeError:
        sys.exit(1)
