"""A Scaler workload on linked workers in which something is killed every few seconds, for SECONDS (600). By hand: `make soak`.

Every result is checked. At the end the keeper's descriptors, maps, memory and disk are shown beside those after the first minute: they are not
to grow with the number of deaths.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zlib
from pathlib import Path
from threading import Event, Thread
from typing import Callable, Dict, List, Tuple

import psutil
from scaler import Client
from scaler.utility.exceptions import ProcessorDiedError

from cluster import RESULT_SECONDS, Cluster, Process, Redis, StorageServer, keeper
from tasks import checksum, reverse, square

SECONDS = int(os.environ.get("SECONDS", "600"))
KILL_EVERY = 5.0
WARM_UP = 60.0
MIB = 1 << 20


def measured(objects: Path) -> Dict[str, float]:
    process = psutil.Process(keeper(objects))
    disk = sum(path.stat().st_blocks * 512 for path in objects.rglob("*") if path.is_file())
    return {
        "descriptors": process.num_fds(),
        "maps": len(process.memory_maps(grouped=False)),
        "threads": process.num_threads(),
        "memory, MiB": round(process.memory_full_info().uss / MIB, 1),
        "disk, MiB": round(disk / MIB, 1),
        "session files": len(list((objects / "sessions").iterdir())),
    }


def round_of_tasks(client: Client, randomness: random.Random) -> int:
    """Submits some tasks and checks what comes back; how many there were."""
    shared = randomness.randbytes(8 * MIB)
    arguments = [randomness.randbytes(randomness.choice([10, 5000, 70_000, 2 * MIB])) for _ in range(10)]
    jobs: List[Tuple[Callable[..., object], Tuple[object, ...], object]] = [
        *((checksum, (shared, number), zlib.crc32(shared) + number) for number in range(8)),
        *((reverse, (argument,), argument[::-1]) for argument in arguments),
        *((square, (number,), number * number) for number in range(20)),
    ]
    futures = [client.submit(function, *given) for function, given, _ in jobs]
    for future, (function, given, expected) in zip(futures, jobs):
        while True:
            try:
                result = future.result(RESULT_SECONDS)
                break
            except ProcessorDiedError:  # Scaler gives a task up whose process is killed
                future = client.submit(function, *given)
        assert result == expected, f"a result of {function} is wrong"
    return len(jobs)


def kill_something(cluster: Cluster, objects: Path, turn: int) -> str:
    """The keeper two times of three; otherwise a process that runs tasks."""
    if turn % 3 < 2:
        os.kill(keeper(objects), signal.SIGKILL)
        return "keeper"
    processors = cluster.processors()
    if not processors:
        return "nothing"
    random.choice(processors).kill()
    return "processor"


class Supervisor:
    """Starts workers in the place of those that Scaler loses: its worker ends with an AssertionError (2.9.0) where its processor dies just before it
    is given a task, and with ``--mode fixed`` nobody starts another one."""

    def __init__(self, cluster: Cluster, options: List[str]):
        self._cluster = cluster
        self._options = options
        self._ended = Event()
        self.started: List[Process] = []
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(1):
            logs = [process.log_text() for process in (self._cluster.workers, *self.started)]
            lost = sum(log.count("exited unexpectedly") for log in logs)
            if len(self.started) < lost:
                self.started.append(self._cluster.more_workers(f"worker {len(self.started)} instead", self._options))

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        for process in self.started:
            process.end()


def soak(directory: Path) -> None:
    redis = Redis(directory)
    storage = StorageServer(directory, "server", ["--backend", "tiered", "--redis-url", redis.url])
    objects = directory / "objects of the workers"
    (directory / "linked.toml").write_text(
        f"""
        [object_storage_server]
        backend = "tiered"
        local.path = "{objects}"
        local.max_size_mb = 1024
        redis.url = "{redis.url}"
        """
    )
    preload = 'scaler_object_storage.worker:link("linked.toml")'
    options = ["--preload", preload]
    cluster = Cluster(directory, storage, 2, worker_options=options)
    supervisor = Supervisor(cluster, options)
    kills: List[Tuple[float, str]] = []
    before: Dict[str, float] = {}
    try:
        begin = time.monotonic()
        tasks, rounds = 0, 0
        with Client(cluster.address) as client:
            tasks += round_of_tasks(client, random.Random(0))
            killed = time.monotonic()
            while time.monotonic() - begin < SECONDS:
                tasks += round_of_tasks(client, random.Random(rounds))
                rounds += 1
                if not before and time.monotonic() - begin > min(WARM_UP, SECONDS / 4):
                    before = measured(objects)
                if time.monotonic() - killed > KILL_EVERY:
                    killed = time.monotonic()
                    kills.append((killed - begin, kill_something(cluster, objects, len(kills))))
            tasks += round_of_tasks(client, random.Random(rounds))
        time.sleep(3)  # what the dead held is given back within a second or two
        after = measured(objects)
        print(f"{tasks} tasks in {rounds} rounds, {time.monotonic() - begin:.0f} s, all results right")
        for kind in ("keeper", "processor"):
            print(f"{kind}s killed: {sum(1 for _, killed_one in kills if killed_one == kind)}")
        for name, value in after.items():
            print(f"{name}: {before.get(name)} after the first minute, {value} at the end")
        print(f"workers that Scaler lost with their processors: {len(supervisor.started)}")
    finally:
        supervisor.end()
        cluster.end()
        storage.process.end()
        redis.kill()
        try:
            os.kill(keeper(objects), signal.SIGTERM)
        except (AssertionError, OSError, ValueError):
            pass  # it has ended


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        soak(place)
    except BaseException:
        print(f"the logs are in {place}", file=sys.stderr)
        raise
    shutil.rmtree(place)
