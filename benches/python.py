"""Puts and gets from Python, and a real Scaler run, beside what people have today. `make bench-python` runs it.

First, in turns and in one process: redis-py as Scaler's Redis backend uses it (a put is GET, then SET and INCRBY in a pipeline; a get is
GET), our backend `redis`, our backend `tiered` where the object is on the node, and a store that this process is attached to. Then the same Scaler workload on the stock object storage
server, on ours, and with the store linked into the workers. Medians; ratios are to what people have today, in the same run.
"""

import argparse
import os
import random
import struct
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Callable, Dict, Iterator, List, Tuple

import redis
from scaler_object_storage import ObjectStore
from scaler_object_storage.redis_backend import RedisObjectStorageBackend, TieredObjectStorageBackend

# The rigs of the tests start the processes, each with a log file below the directory, and end them.
TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "scaler"), str(TESTS / "python")]
from redis_server import RedisServer  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
SIZES = [128, KIB, 64 * KIB, MIB, 16 * MIB, 100 * MIB]

# What is written stays below what the kernel begins to write back at once, at each size.
BYTES_PER_SIZE = 300 * MIB
ROUNDS_MIN, ROUNDS_MAX = 5, 2000

WORKERS = os.cpu_count() or 2
SCALER_TURNS = 3
TASKS = 2000
SHARED_BYTES, SHARING_TASKS = 50_000_000, 50


class PlainRedis:
    """The Python Redis backend's way."""

    def __init__(self, url: str):
        self._redis = redis.Redis.from_url(url)
        self._prefix = "scaler:obj:"

    def put(self, object_id: bytes, data: bytes, metadata: bytes = b"") -> bool:
        key = self._prefix + object_id.hex()
        value = struct.pack("<I", len(metadata)) + metadata + data
        former = self._redis.get(key)
        with self._redis.pipeline() as pipeline:
            pipeline.set(key, value)
            pipeline.incrby(self._prefix + "_meta:total_size", len(value) - len(former or b""))
            pipeline.execute()
        return True

    def get(self, object_id: bytes) -> Tuple[bytes, bytes]:
        value = self._redis.get(self._prefix + object_id.hex())
        (length,) = struct.unpack_from("<I", value)
        return value[4 + length :], value[4 : 4 + length]

    def delete(self, object_id: bytes) -> None:
        key = self._prefix + object_id.hex()
        former = self._redis.get(key)
        self._redis.delete(key)
        self._redis.decrby(self._prefix + "_meta:total_size", len(former or b""))


@contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    server = RedisServer(directory)
    try:
        yield server.url
    finally:
        server.kill()


def seconds(operation: Callable[..., object], *arguments: object) -> float:
    begin = time.perf_counter()
    operation(*arguments)
    return time.perf_counter() - begin


def shown_size(size: int) -> str:
    if size < KIB:
        return f"{size} B"
    return f"{size // KIB} KiB" if size < MIB else f"{size // MIB} MiB"


def shown_time(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.0f} ns"


def table(title: str, columns: List[str], rows: List[List[str]]) -> None:
    widths = [max(len(row[column]) for row in [columns, *rows]) for column in range(len(columns))]
    print(f"\n{title}\n")
    for row in [columns, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |", flush=True)


def settle() -> None:
    """Lets what was written reach the disk, so that it does not slow down what is measured next."""
    os.sync()


def operations(directory: Path) -> None:
    puts, gets = [], []
    with redis_server(directory) as plain_url, redis_server(directory) as url:
        plain = PlainRedis(plain_url)
        ours = RedisObjectStorageBackend(redis_url=url, key_prefix="redis:", max_object_size_mb=0)
        tiered = TieredObjectStorageBackend(
            local_path=directory / "objects", redis_url=url, key_prefix="tiered:", max_object_size_mb=0
        )
        shared = ObjectStore(backend="tiered", local={"path": directory / "shared"}, redis={"url": url})
        attached = ObjectStore.attach(backend="tiered", local={"path": directory / "attached"}, redis={"url": url})
        subjects: Dict[str, object] = {"redis-py": plain, "redis": ours, "tiered": tiered}
        for size in SIZES:
            data = random.randbytes(size)
            rounds = min(max(BYTES_PER_SIZE // size, ROUNDS_MIN), ROUNDS_MAX)
            put: Dict[str, List[float]] = {name: [] for name in [*subjects, "attached"]}
            get: Dict[str, List[float]] = {name: [] for name in [*subjects, "view", "asked", "remembered"]}
            for number in range(rounds):
                object_id = struct.pack(">QQ16x", size, number)  # never stored before
                for name, subject in subjects.items():
                    put[name].append(seconds(subject.put, object_id, data))  # type: ignore[attr-defined]
                    subject.get(object_id)  # type: ignore[attr-defined]
                    get[name].append(seconds(subject.get, object_id))  # type: ignore[attr-defined]
                shared.put(object_id, data)
                shared.get(object_id)
                get["view"].append(seconds(lambda: shared.get(object_id).data))  # type: ignore[union-attr]
                put["attached"].append(seconds(attached.put, object_id, data))
                for kind in ("asked", "remembered"):
                    get[kind].append(seconds(lambda: attached.get(object_id).data))  # type: ignore[union-attr]
                for store in [*subjects.values(), shared, attached]:
                    store.delete(object_id)  # type: ignore[attr-defined]
            medians = [{name: median(times) for name, times in of.items()} for of in (put, get)]
            puts.append([shown_size(size), *cells(medians[0])])
            gets.append([shown_size(size), *cells(medians[1])])
            settle()
        for store in (ours, tiered, shared, attached):
            store.close()
    table("put", ["size", "redis-py", "ours `redis`", "ours `tiered`", "attached"], puts)
    table(
        "get, of what was read before",
        [
            "size",
            "redis-py",
            "ours `redis`",
            "ours `tiered`, as bytes",
            "ours `tiered`, as memoryview",
            "attached, the first time",
            "attached, again",
        ],
        gets,
    )


def cells(medians: Dict[str, float]) -> List[str]:
    """Times, and how many times faster they are than the first."""
    first, *others = medians.values()
    return [shown_time(first), *(f"{shown_time(other)} ({first / other:.3g}x)" for other in others)]


def scaler(directory: Path) -> None:
    """The same workload on each kind of object storage, in turns."""
    from cluster import VENV_BIN, Cluster, StorageServer

    program = os.environ["OBJECT_STORAGE_SERVER_PROGRAM"]
    results: Dict[str, List[Tuple[float, float]]] = {}
    with redis_server(directory) as url:
        shared = directory / "shared.toml"
        shared.write_text(
            f'[object_storage_server]\nbackend = "tiered"\nlocal.path = "{directory}/shared"\n'
            f'local.max_size_mb = 4096\nredis.url = "{url}"\n'
        )
        link = ["--preload", f'scaler_object_storage.worker:link("{shared}")']
        subjects = {
            "stock server": (str(VENV_BIN / "scaler_object_storage_server"), [], []),
            "our server": (program, [], []),
            "our server, `tiered`": (program, ["--backend", "tiered", "--redis-url", url], []),
            "linked workers": (program, ["--backend", "tiered", "--redis-url", url], link),
            "linked workers, the server's directory": (program, ["--config", str(shared)], link),
        }
        for turn in range(SCALER_TURNS):
            for number, (name, (server, options, worker_options)) in enumerate(subjects.items()):
                os.environ["OBJECT_STORAGE_SERVER_PROGRAM"] = server
                place = directory / f"{turn}.{number}"
                place.mkdir()
                storage = StorageServer(place, options=options)
                cluster = Cluster(place, storage, WORKERS, worker_options=worker_options)
                try:
                    results.setdefault(name, []).append(workload(cluster.address))
                finally:
                    cluster.end()
                    storage.process.end()
                if worker_options and "object store linked" not in cluster.workers.log_text():
                    raise RuntimeError(f"the store was not linked: {cluster.workers.log_text()}")
                settle()
    rows = []
    stock: Tuple[float, float] = (0.0, 0.0)
    for name, turns in results.items():
        rate, sharing = (median(values) for values in zip(*turns))
        stock = stock if rows else (rate, sharing)
        rows.append([name, f"{rate:.0f} ({rate / stock[0]:.2f}x)", f"{sharing:.2f} s ({stock[1] / sharing:.2f}x)"])
    columns = ["object storage", "tasks a second", f"{SHARING_TASKS} tasks that share {SHARED_BYTES // 10**6} MB"]
    table(f"Scaler with {WORKERS} workers, median of {SCALER_TURNS} turns", columns, rows)


def workload(address: str) -> Tuple[float, float]:
    """Tasks a second, each with an argument of its own; seconds until many tasks have each read the same large argument."""
    from scaler import Client

    with Client(address) as client:
        client.map(abs, range(100))  # every worker has started
        begin = time.perf_counter()
        client.map(abs, range(TASKS))
        rate = TASKS / (time.perf_counter() - begin)
        data = random.randbytes(SHARED_BYTES)
        begin = time.perf_counter()
        reference = client.send_object(data, name="shared")
        futures = [client.submit(len, reference) for _ in range(SHARING_TASKS)]
        assert all(future.result() == SHARED_BYTES for future in futures)
        return rate, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["operations", "scaler"])
    arguments = parser.parse_args()
    random.seed(1)
    with tempfile.TemporaryDirectory(prefix="bench-python-") as directory:
        if arguments.only != "scaler":
            operations(Path(directory))
        if arguments.only != "operations":
            scaler(Path(directory))


if __name__ == "__main__":
    sys.exit(main())
