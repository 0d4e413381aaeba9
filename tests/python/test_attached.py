"""Stores that several processes of a machine share: what is particular to them. All else that a store does, `test_store.py` asks of them, too."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from scaler_object_storage import ConfigError, DetachedError, ObjectStore, UnansweredError, program

# Generous: it only bounds how long a defect takes to be reported.
SECONDS_MAX = 60

MIB = 1 << 20

ATTACH = """
    import os, signal, sys
    from scaler_object_storage import *
    store = ObjectStore.attach(local={"path": sys.argv[1], "max_size_mb": 64, "keeper_idle_seconds": 1})
"""


def attach(directory: Path, **local: Any) -> ObjectStore:
    settings: Any = {"path": directory, "max_size_mb": 64, "keeper_idle_seconds": 1, **local}
    return ObjectStore.attach(local=settings)


def keeper(directory: Path) -> int:
    return int((directory / "LOCK").read_text().split()[0])


def is_running(process: int) -> bool:
    try:
        return bool(os.readlink(f"/proc/{process}/exe"))
    except OSError:
        return False  # what is left of it waits to be looked at


def stop(process: int) -> None:
    os.kill(process, signal.SIGSTOP)
    while Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
        time.sleep(0.001)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    with attach(tmp_path) as store:
        yield store


def start(text: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(text), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def go_on(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def test_processes_share_one_store_that_a_keeper_of_the_package_keeps(store: ObjectStore, tmp_path: Path) -> None:
    large = bytes(range(256)) * 4 * 1024
    store.put(b"large", large, b"metadata")
    text = textwrap.dedent(ATTACH) + textwrap.dedent(
        """
        found = store.get(b"large")
        store.put(b"answer", bytes(found)[::-1], found.metadata)
        print(store.info().objects)
        """
    )
    child = start(text, tmp_path)
    assert said(child) == "2"
    assert child.wait(SECONDS_MAX) == 0
    found = store.get(b"answer")
    assert found is not None and found.data == large[::-1] and found.metadata == b"metadata"
    running = os.readlink(f"/proc/{keeper(tmp_path)}/exe")
    assert running == program.path()


def test_what_was_read_and_acknowledged_outlives_the_keeper(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(MIB)
    store.put(b"id", data)
    found = store.get(b"id")
    killed = keeper(tmp_path)
    os.kill(killed, signal.SIGKILL)
    while is_running(killed):
        time.sleep(0.01)
    assert b"other" not in store, "which the next one is asked"
    again = store.get(b"id")
    assert found is not None and again is not None
    assert found.data == again.data == data
    assert keeper(tmp_path) != killed


def test_the_keeper_ends_when_nobody_is_attached(tmp_path: Path) -> None:
    attach(tmp_path).close()
    deadline = time.monotonic() + SECONDS_MAX
    while (tmp_path / "socket").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    # For this process alone: nobody else has it.
    ObjectStore(local={"path": tmp_path, "max_size_mb": 64}).close()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("call", ["store.get(b'id')", "store.put(b'id', b'data')", "store.put(b'id', bytes(1_000_000))", "store.info()", "b'id' in store"])
def test_a_call_that_waits_for_the_keeper_raises_what_a_signal_handler_does(tmp_path: Path, name: str, call: str) -> None:
    text = ATTACH + f"""
    class Ended(Exception):
        pass
    def handle(*_):
        raise Ended
    signal.signal(signal.{name}, handle)
    print("attached", flush=True)
    try:
        sys.stdin.readline()
        {call}
    except Ended:
        print("ended", flush=True)
    sys.stdin.readline()
    print(store.get(b"other"), flush=True)
    """
    with attach(tmp_path):
        child = start(text, tmp_path)
        assert said(child) == "attached"
        stop(keeper(tmp_path))
        go_on(child)
        time.sleep(0.3)  # It waits by now. Otherwise the handler runs before, and the test shows less.
        child.send_signal(getattr(signal, name))
        assert said(child) == "ended"
        os.kill(keeper(tmp_path), signal.SIGCONT)
        go_on(child)
        assert said(child) == "None"
        assert child.wait(SECONDS_MAX) == 0


def test_a_call_goes_on_where_the_handler_does_not_raise(store: ObjectStore, tmp_path: Path) -> None:
    store.put(b"id", b"data")
    text = textwrap.dedent(ATTACH) + textwrap.dedent(
        """
        signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
        print("attached", flush=True)
        sys.stdin.readline()
        print(store.get_bytes(b"id"), flush=True)
        """
    )
    child = start(text, tmp_path)
    assert said(child) == "attached"
    stop(keeper(tmp_path))
    go_on(child)
    time.sleep(0.5)  # It waits by now. Otherwise the handler runs before, and the test shows less.
    child.send_signal(signal.SIGTERM)
    assert said(child) == "handled"
    os.kill(keeper(tmp_path), signal.SIGCONT)
    assert said(child) == "b'data'"
    assert child.wait(SECONDS_MAX) == 0


def test_a_forked_child_attaches_anew(store: ObjectStore, tmp_path: Path) -> None:
    text = textwrap.dedent(ATTACH) + textwrap.dedent(
        """
        store.put(b"id", bytes(1_000_000))
        view = store.get(b"id").data
        child = os.fork()
        if child == 0:
            try:
                store.get(b"id")
            except ForkedError:
                with ObjectStore.attach(local={"path": sys.argv[1], "max_size_mb": 64}) as own:
                    own.put(b"child", b"data")
                    os._exit(0 if bytes(view) == bytes(1_000_000) else 2)
            os._exit(1)
        print(os.waitpid(child, 0)[1], store.get_bytes(b"child"))
        """
    )
    child = start(text, tmp_path)
    assert said(child) == "0 b'data'"
    assert child.wait(SECONDS_MAX) == 0


def test_what_cannot_be_attached_to_is_told(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="local.max_size_mb.*32.*64|local.max_size_mb.*64.*32"):
        attach(tmp_path, max_size_mb=32)
    with pytest.raises(ConfigError, match="no directory"):
        ObjectStore.attach(backend="redis")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ObjectStore.attach"):
        attach(tmp_path, slots=2)
    with pytest.raises(DetachedError, match="/nowhere/at/all") as raised:
        attach(tmp_path / "other", keeper_command="/nowhere/at/all")
    assert isinstance(raised.value, ConnectionError) and issubclass(UnansweredError, ConnectionError)


def test_a_store_is_attached_to_as_the_config_file_says(store: ObjectStore, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"[object_storage_server.local]\npath = '{tmp_path}'\nmax_size_mb = 64\n")
    store.put(b"id", b"data")
    with ObjectStore.attach_config(config) as other:
        assert other.get_bytes(b"id") == b"data"
        assert (other.info().backend, other.info().place) == ("local", str(tmp_path))


def test_a_wait_is_answered_by_another_process(store: ObjectStore, tmp_path: Path) -> None:
    child = start(textwrap.dedent(ATTACH) + 'print("waits", flush=True)\nprint(bytes(store.wait(b"id", 60)))\n', tmp_path)
    lines: List[str] = [said(child)]
    store.put(b"id", b"data")
    lines.append(said(child))
    assert lines == ["waits", "b'data'"]
    assert child.wait(SECONDS_MAX) == 0
