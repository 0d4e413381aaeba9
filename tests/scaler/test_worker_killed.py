"""A worker that dies in the middle of a task, in a cluster of its own: Scaler 2.6's scheduler may end with the worker where clients
have left it before."""

import os
from pathlib import Path

import psutil
from scaler import Client

from cluster import RESULT_SECONDS, wait_until
from tasks import reverse, stand_still_once

MIB = 1 << 20


def test_worker_killed_in_mid_task(client: Client, directory: Path) -> None:
    marker = directory / "stand_still_once"
    data = os.urandom(MIB)
    future = client.submit(stand_still_once, str(marker))
    wait_until(marker.exists, "the task runs")
    processor = psutil.Process(int(marker.read_text()))
    for process in (processor.parent(), processor):
        process.kill()
    assert future.result(RESULT_SECONDS) != processor.pid
    assert client.submit(reverse, data).result(RESULT_SECONDS) == data[::-1]
