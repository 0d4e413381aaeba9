"""The programs in the documentation run, one after the other, as they are printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from scaler_object_storage import exceptions

from redis_server import RedisServer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_examples_run(page: str, mortal_redis: RedisServer, tmp_path: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert examples
    program = "\n".join(examples).replace("redis://localhost:6379/0", mortal_redis.url)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_every_exception_is_documented() -> None:
    page = (ROOT / "docs/python.md").read_text()
    for name in exceptions.__all__:
        assert f"`{name}`" in page
        builtin = [base.__name__ for base in getattr(exceptions, name).__bases__ if base.__module__ == "builtins"]
        if builtin and name != "ObjectStoreError":
            assert re.search(rf"^\| `{name}` \| `{builtin[0]}` \|", page, re.MULTILINE), name
