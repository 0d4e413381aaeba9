"""`examples/redis_backend_demo.py`, with a Redis and without."""

import os
import re
import subprocess
import sys
from pathlib import Path

import redis
from scaler_object_storage.redis_backend import RedisObjectStorageBackend

from redis_server import RedisServer

DEMO = Path(__file__).parents[2] / "examples" / "redis_backend_demo.py"


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(DEMO), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def test_the_demo_shows_everything_and_says_what_it_leaves(mortal_redis: RedisServer) -> None:
    ended = run(mortal_redis.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "get    (b'Hello, World!', b'text/plain')" in ended.stdout
    assert re.search(r"info +object_count +1\n", ended.stdout)
    assert re.search(r"node B reads \(b'from node A', b''\) [\d.]+ ms later", ended.stdout)
    assert re.search(r"node A no longer has it [\d.]+ ms later", ended.stdout)
    for size in ("1 KiB", "64 KiB", "1 MiB"):
        assert re.search(size + r"( +[\d.]+ +[\d.]+ +[\d.]+x){2}\n", ended.stdout)
    [prefix] = re.findall(r"What is left in Redis begins with (demo:\w+:): ", ended.stdout)
    of_the_prefix = {prefix + name for name in ("_events", "_epoch", "_meta:object_count", "_meta:total_size")}
    with RedisObjectStorageBackend(mortal_redis.url, key_prefix=prefix) as backend:
        assert (backend.size(), backend.get_info()["object_count"]) == (0, 0)
    with redis.Redis(port=mortal_redis.port) as client:
        staying = {key.decode() for key in client.keys("*") if client.ttl(key) == -1}
        assert staying <= of_the_prefix, "all else expires by itself"
        assert all(key.decode().startswith(prefix) for key in client.keys("*"))


def test_without_a_redis_the_demo_says_how_to_start_one(mortal_redis: RedisServer) -> None:
    mortal_redis.kill()
    ended = run(REDIS_URL=mortal_redis.url)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"Redis at {mortal_redis.url} cannot be reached" in ended.stderr
    assert "docker run" in ended.stderr and "Traceback" not in ended.stderr
