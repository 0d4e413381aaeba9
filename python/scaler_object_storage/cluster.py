# Scaler has no types, and need not be installed.
# mypy: disable-error-code="import-not-found, import-untyped"
"""A whole Scaler cluster of this process, for notebooks and tests, on this package's object storage server.

    from scaler import Client
    from scaler_object_storage.cluster import SchedulerClusterCombo

    cluster = SchedulerClusterCombo(n_workers=4)
    with Client(cluster.get_address()) as client:
        print(client.submit(sum, [1, 2, 3]).result())
    cluster.shutdown()
"""

import functools
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, List, Optional, Union

from scaler.cluster import combo
from scaler.cluster.object_storage_server import ObjectStorageServerProcess

from scaler_object_storage import program

__all__ = ["SchedulerClusterCombo"]

_CONFIG = """\
[object_storage_server.local]
path = "{path}"
keeper_idle_seconds = 1
"""

# Held while Scaler's combo finds our server in the place of its own.
_replacing = threading.Lock()


class SchedulerClusterCombo(combo.SchedulerClusterCombo):  # type: ignore[misc]
    """Scaler's ``SchedulerClusterCombo``, with this package's object storage server in the place of Scaler's, and workers that are
    linked to its store. All other parameters are Scaler's own."""

    def __init__(
        self, *arguments: Any, config: Optional[Union[str, "os.PathLike[str]"]] = None, link: bool = True, **settings: Any
    ) -> None:
        """Starts everything.

        ``config``: the config file of the server and of the store. Without one, objects are in a directory that goes with the cluster.
        ``link``: whether workers are linked to the store (:func:`scaler_object_storage.worker.link`).
        """
        self._temporary: Optional["tempfile.TemporaryDirectory[str]"] = None
        if config is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="scaler_object_storage_")
            config = Path(self._temporary.name) / "config.toml"
            config.write_text(_CONFIG.format(path=Path(self._temporary.name) / "objects"))
        path = os.path.abspath(config)
        worker_config = combo.WorkerConfig
        if link:
            worker_config = functools.partial(worker_config, preload=f"scaler_object_storage.worker:link({path!r})")
        with _replacing:
            replaced = combo.ObjectStorageServerProcess, combo.WorkerConfig
            combo.ObjectStorageServerProcess, combo.WorkerConfig = functools.partial(_Server, path), worker_config
            try:
                super().__init__(*arguments, **settings)
            finally:
                combo.ObjectStorageServerProcess, combo.WorkerConfig = replaced

    def shutdown(self) -> None:
        """Ends everything, in the order in which it is needed."""
        super().shutdown()
        if self._temporary is not None:
            self._temporary.cleanup()


class _Server(ObjectStorageServerProcess):  # type: ignore[misc]
    """A process of Scaler's combo that becomes the server's program."""

    def __init__(self, config: str, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._config = config

    def run(self) -> None:
        words: List[str] = ["serve", repr(self._bind_address), "--config", self._config, "--identity", self._ident]
        words += ["--logging-level", self._logging_level, "--logging-paths", *self._logging_paths]
        security = self._security_config
        if security is not None and security.tls_cert and security.tls_key:
            words += ["--tls-cert", str(security.tls_cert), "--tls-key", str(security.tls_key)]
        words = program.command(words)
        os.execv(words[0], words)
