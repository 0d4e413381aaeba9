"""A store and the end, the forks, the signals and the log of its process."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from scaler_object_storage import ObjectStore

from redis_server import RedisServer

# Generous: it only bounds how long a defect takes to be reported.
SECONDS_MAX = 60


def run(program: str, *arguments: object, status: int = 0) -> "subprocess.CompletedProcess[str]":
    # Python 3.12 and newer warn of forks beside threads.
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX)
    assert ended.returncode == status, ended.stderr
    return ended


OPEN = """
    import os, sys, threading, time
    from scaler_object_storage import *
    store = ObjectStore(local={"path": sys.argv[1], "max_size_mb": 64})
    store.put(b"id", b"data")
"""


def test_a_store_that_nobody_closed_is_closed_when_the_interpreter_exits(tmp_path: Path) -> None:
    ended = run(OPEN, tmp_path)
    assert ended.stderr == ""
    with ObjectStore(local={"path": tmp_path, "lock_wait_ms": 0}) as store:
        assert store.get_bytes(b"id") == b"data"


def test_threads_that_wait_do_not_hold_up_the_exit(tmp_path: Path) -> None:
    program = """
    for number in range(4):
        threading.Thread(target=store.wait, args=(b"never",), daemon=True).start()
    ticket = store.get_or_park(b"never either", print)
    while store.info().waiting_requests < 5:
        time.sleep(0.01)
    """
    # Told that the store is closed, they would print that into a file that the interpreter is closing, which aborts it.
    assert run(OPEN + program, tmp_path).stderr == ""


def test_an_object_is_read_while_the_interpreter_ends(tmp_path: Path) -> None:
    program = """
    class Late:
        def __del__(self, write=os.write):
            write(1, bytes(self.view))
    late = Late()
    late.view = store.get(b"id").data
    """
    assert run(OPEN + program, tmp_path).stdout == "data"


def test_a_forked_child_cannot_use_the_store_and_ends_as_it_wants(tmp_path: Path) -> None:
    program = """
    view = store.get(b"id").data
    ticket = store.get_or_park(b"never", print)
    writer = store.writer(b"other", 3)
    with store:
        child = os.fork()
        if child == 0:
            for call in (store.get, store.delete, store.contains, lambda id: store.put(id, b""), store.wait):
                try:
                    call(b"id")
                except ForkedError:
                    continue
                os._exit(1)
            store.info()
            assert bytes(view) == b"data"
            del writer, ticket
            sys.exit(7)
        assert os.waitpid(child, 0)[1] == 7 << 8
        assert store.get_bytes(b"id") == b"data"
    """
    assert run(OPEN + program, tmp_path).stderr == ""


def test_a_forked_child_opens_a_store_of_its_own(tmp_path: Path) -> None:
    program = """
    child = os.fork()
    if child == 0:
        own = ObjectStore(local={"path": sys.argv[1] + "/child", "max_size_mb": 64})
        own.put(b"id", b"child")
        answers = []
        ticket = own.get_or_park(b"new", answers.append)
        own.put(b"new", b"")
        while not answers:
            time.sleep(0.01)
        sys.exit(own.get_bytes(b"id") != b"child")
    assert os.waitpid(child, 0)[1] == 0
    """
    assert run(OPEN + program, tmp_path).stderr == ""


def test_multiprocessing_forks_beside_a_store_that_is_busy(tmp_path: Path) -> None:
    program = """
    import multiprocessing
    stop = threading.Event()
    def work(number):
        while not stop.is_set():
            store.put(b"%d" % number, bytes(1000))
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    for _ in range(20):
        child = context.Process(target=len, args=("",))
        child.start()
        child.join()
        assert child.exitcode == 0
    stop.set()
    for thread in threads:
        thread.join()
    """
    run(OPEN + program, tmp_path)


def test_ctrl_c_ends_a_wait(tmp_path: Path) -> None:
    program = textwrap.dedent(OPEN) + textwrap.dedent("""
    try:
        print("waits", flush=True)
        store.wait(b"never")
    except KeyboardInterrupt:
        print("interrupted")
    """)
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "waits\n"
    os.kill(child.pid, signal.SIGINT)
    try:
        assert child.stdout.readline() == "interrupted\n"
        assert child.wait(SECONDS_MAX) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("backend", ["redis", "tiered"])
def test_ctrl_c_ends_a_call_that_waits_for_redis(backend: str, tmp_path: Path, mortal_redis: RedisServer) -> None:
    program = textwrap.dedent("""
    import os, signal, sys, time
    from scaler_object_storage import ObjectStore
    redis = {"url": sys.argv[2], "response_timeout_ms": 600_000, "connect_timeout_ms": 600_000, "drain_timeout_ms": 0}
    tiered = sys.argv[1] == "tiered"
    store = ObjectStore(backend=sys.argv[1], redis=redis, local={"path": sys.argv[3], "max_size_mb": 64} if tiered else None)
    store.get(b"missing")
    os.kill(int(sys.argv[4]), signal.SIGSTOP)
    try:
        print("waits", flush=True)
        store.get(b"missing")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """)
    arguments = [backend, mortal_redis.url, str(tmp_path / "objects"), str(mortal_redis.pid)]
    child = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "waits\n"
        time.sleep(0.3)  # into the wait
        os.kill(child.pid, signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
    finally:
        os.kill(mortal_redis.pid, signal.SIGCONT)
        child.kill()
        child.wait()
        child.stdout.close()


def test_what_the_store_has_to_say_is_logged_as_python_logs(tmp_path: Path) -> None:
    damage = """
    import logging
    logging.basicConfig(level="INFO", format="%(name)s %(levelname)s %(message)s")
    store.put(b"damaged", b"x" * 1000)
    journal = max((os.path.join(at, name) for at, _, names in os.walk(sys.argv[1] + "/journal") for name in names),
                  key=lambda path: b"x" * 1000 in open(path, "rb").read())
    store.close()
    data = open(journal, "rb").read()
    with open(journal, "r+b") as file:
        file.seek(data.index(b"x" * 1000))
        file.write(b"y")
    store = ObjectStore(local={"path": sys.argv[1], "max_size_mb": 64})
    assert store.get(b"damaged") is None
    """
    assert "scaler_object_storage.local" in run(OPEN + damage, tmp_path).stderr
