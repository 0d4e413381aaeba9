"""Functions that run on the workers. Scaler ships them by value, so they are closed over nothing of this module."""

from typing import Callable, Tuple


def make_tasks() -> Tuple[Callable, ...]:
    """The functions as closures: a function at the top of a module would be shipped by its name, which workers cannot import."""

    def square(number: int) -> int:
        return number * number

    def reverse(data: bytes) -> bytes:
        return data[::-1]

    def checksum(data: bytes, offset: int) -> int:
        import zlib

        return zlib.crc32(data) + offset

    def fail(text: str) -> None:
        raise ValueError(text)

    def fibonacci(client, number: int) -> int:
        if number < 2:
            return number
        first = client.submit(fibonacci, client, number - 1)
        second = client.submit(fibonacci, client, number - 2)
        return first.result() + second.result()

    def stand_still_once(marker: str) -> int:
        """The first time, leaves its process id in the file and never ends; from then on returns its process id."""
        import os
        import pathlib
        import time

        path = pathlib.Path(marker)
        if path.exists():
            return os.getpid()
        path.with_suffix(".new").write_text(str(os.getpid()))
        path.with_suffix(".new").rename(path)
        while True:
            time.sleep(1)

    def leave_process_id(directory: str) -> None:
        """Leaves a file with the process's id in its name, and takes its time."""
        import os
        import pathlib
        import time

        (pathlib.Path(directory) / f"{os.getpid()}.ran").touch()
        time.sleep(0.2)

    return square, reverse, checksum, fail, fibonacci, stand_still_once, leave_process_id


square, reverse, checksum, fail, fibonacci, stand_still_once, leave_process_id = make_tasks()
