"""Scaler's combo on the server of this package: in a process of its own, as one that starts it has to be importable."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster import RESULT_SECONDS, serves_from_disk

pytestmark = pytest.mark.skipif(not serves_from_disk(), reason="the stock server has a combo of its own")

PROGRAM = """
import os, sys
from pathlib import Path
from scaler import Client
from scaler_object_storage.cluster import SchedulerClusterCombo

if __name__ == "__main__":
    cluster = SchedulerClusterCombo(n_workers=2{arguments})
    with Client(cluster.get_address()) as client:
        assert client.submit(sum, [1, 2, 3]).result() == 6
        assert client.map(len, [bytes(3_000_000)] * 4) == [3_000_000] * 4
    server = Path(f"/proc/{{cluster._object_storage.pid}}/exe").resolve()
    cluster.shutdown()
    print("served by", server)
"""


@pytest.mark.parametrize("has_config", [False, True])
def test_the_combo(tmp_path: Path, has_config: bool) -> None:
    (tmp_path / "scaler.toml").write_text(
        f"[object_storage_server.local]\npath = '{tmp_path}/objects'\nmax_size_mb = 256\nkeeper_idle_seconds = 1\n"
    )
    arguments = ', config="scaler.toml"' if has_config else ""
    (tmp_path / "program.py").write_text(PROGRAM.format(arguments=arguments))
    command = [sys.executable, "program.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=RESULT_SECONDS)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "scaler_object_storage/bin/scaler_object_storage" in said.split("served by")[-1], said
    assert "object store linked: local backend" in said, said
    assert (tmp_path / "objects" / "journal").exists() == has_config
