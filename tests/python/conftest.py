from typing import Iterator

import pytest

from redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """For all tests that do not stop it; each has a prefix of its own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def mortal_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """For one test, which may stop and start it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()
