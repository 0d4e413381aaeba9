"""One config file serves the whole cluster, the server under test as well as the stock one."""

import sys
from pathlib import Path

import pytest
from scaler import Client
from scaler.config.section.object_storage_server import ObjectStorageServerConfig

from cluster import RESULT_SECONDS, VENV_BIN, Process, free_port, serves_from_disk, server_program, wait_until
from tasks import square


def test_one_file_for_server_and_scheduler(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, scheduler, monitor = (f"tcp://127.0.0.1:{free_port()}" for _ in range(3))
    log = directory / "from_config.log"
    config = directory / "cluster.toml"
    config.write_text(
        f"""
        [object_storage_server]
        bind_address = "{storage}"
        identity = "ObjectStorageServer"
        logging-level = "INFO"
        logging_paths = ["/dev/stdout", "{log}"]
        backend = "memory"

        [object_storage_server.memory]
        max_size_mb = 256

        [scheduler]
        bind_address = "{scheduler}"
        object_storage_address = "{storage}"
        monitor_address = "{monitor}"
        """
    )

    # Scaler's own programs want on the command line what they require, even where it is in the file.
    monkeypatch.setattr(sys, "argv", ["scaler_object_storage_server", storage, "--config", str(config)])
    stock = ObjectStorageServerConfig.parse("scaler_object_storage_server", "object_storage_server")
    assert (stock.logging_config.level, stock.logging_config.paths) == ("INFO", ["/dev/stdout", str(log)])

    server = [server_program(), *([] if serves_from_disk() else [storage]), "--config", str(config)]
    scheduler_program = [str(VENV_BIN / "scaler_scheduler"), scheduler, "--object-storage-address", storage]
    workers = [str(VENV_BIN / "scaler_worker_manager"), "baremetal_native", scheduler, "--worker-manager-id", "test"]
    processes = [Process("object_storage_server", server, directory)]
    try:
        wait_until(lambda: log.exists() and log.stat().st_size > 0, "the server logs to the path in the file")
        processes.append(Process("scheduler", [*scheduler_program, "--config", str(config)], directory))
        processes.append(Process("workers", [*workers, "--mode", "fixed", "--max-task-concurrency", "1"], directory))
        with Client(scheduler) as client:
            assert client.submit(square, 5).result(RESULT_SECONDS) == 25
    finally:
        for process in reversed(processes):
            process.end()
