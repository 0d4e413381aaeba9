"""Our module in Scaler's package: `scaler.object_storage.redis_backend`, whichever of the two is installed first, or goes first."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Iterator

import pytest

from cluster import Redis

RUN_SECONDS = 120

PROGRAM = """
from scaler.object_storage.redis_backend import RedisObjectStorageBackend
backend = RedisObjectStorageBackend(redis_url="redis://localhost:6379/0", max_object_size_mb=100)
backend.put(b"my_object", b"Hello, World!", b"text/plain")
data, metadata = backend.get(b"my_object")
backend.exists(b"my_object"); backend.delete(b"my_object")
info = backend.get_info(); info["object_count"], info["total_size_bytes"]
"""

CHECKS = """
assert (data, metadata, info["object_count"], info["total_size_bytes"]) == (b"Hello, World!", b"text/plain", 0, 0), info
"""

SCALER_WORKS = """
import scaler.object_storage
from scaler import Client
assert scaler.__file__ and scaler.object_storage.__file__
"""


@pytest.fixture(scope="module")
def redis(directory: Path) -> Iterator[Redis]:
    redis = Redis(directory)
    yield redis
    redis.kill()


class Environment:
    """A virtual environment in which everything is installed that is installed here, but for Scaler and our package."""

    def __init__(self, directory: Path):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True, timeout=RUN_SECONDS)
        self._python = directory / "bin" / "python"
        self._here = Path(sysconfig.get_path("purelib"))
        self._site = directory / self._here.relative_to(sys.prefix)
        for installed in self._here.iterdir():
            if not installed.name.startswith(("scaler", "opengris_scaler")):
                (self._site / installed.name).symlink_to(installed)

    def run(self, *arguments: str) -> str:
        # Without the module's own directory, or one given from outside, in the way.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ended = subprocess.run(
            [str(self._python), *arguments],
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            cwd=self._site.parent,
            env=environment,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def pip(self, *arguments: str) -> None:
        self.run("-m", "pip", "--quiet", "--no-input", *arguments)

    def install_scaler(self) -> None:
        """As pip does, but from what is installed here."""
        for name in importlib.metadata.files("opengris-scaler") or []:
            source = Path(str(name.locate()))
            if self._here in source.parents and source.is_file():
                target = self._site / source.relative_to(self._here)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)

    def install_ours(self) -> None:
        self.pip("install", "--no-index", "--no-deps", os.environ["WHEEL"])

    def has_our_module(self) -> bool:
        program = "import importlib.util as u; print(bool(u.find_spec('scaler.object_storage.redis_backend')))"
        return self.run("-c", program).strip() == "True"


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "venv")


def test_the_documented_program_runs_beside_scaler(redis: Redis) -> None:
    program = PROGRAM.replace("redis://localhost:6379/0", redis.url)
    subprocess.run([sys.executable, "-c", SCALER_WORKS + program + CHECKS], check=True, timeout=RUN_SECONDS)


def test_our_package_comes_last_and_goes_first(environment: Environment, redis: Redis) -> None:
    program = PROGRAM.replace("redis://localhost:6379/0", redis.url)
    environment.install_scaler()
    assert not environment.has_our_module()
    environment.install_ours()
    environment.run("-c", SCALER_WORKS + program + CHECKS)
    environment.pip("uninstall", "--yes", "scaler-object-storage")
    assert not environment.has_our_module()
    environment.run("-c", SCALER_WORKS)


def test_our_package_comes_first_and_goes_last(environment: Environment, redis: Redis) -> None:
    program = PROGRAM.replace("redis://localhost:6379/0", redis.url)
    environment.install_ours()
    environment.run("-c", program + CHECKS)
    environment.install_scaler()
    environment.run("-c", SCALER_WORKS + program + CHECKS)
    environment.pip("uninstall", "--yes", "opengris-scaler")
    environment.run("-c", program + CHECKS)
