"""A client that writes objects to the server at an address until it is killed, and prints those that were acknowledged.

A process of its own: Scaler's connectors often do not return when their server is killed, neither from a call nor from destroy().
"""

import hashlib
import sys
from typing import Dict

from connection import Connection

MIB = 1 << 20
SIZES = [0, 1, 100, 4096, 100_000, MIB, 5 * MIB]
ACKNOWLEDGED = "acknowledged"


def content(object_id: bytes, size: int) -> bytes:
    return hashlib.shake_128(object_id).digest(size)


def acknowledged(log: str) -> Dict[bytes, int]:
    """The ids and sizes that a writer has printed."""
    lines = [line.split() for line in log.splitlines() if line.startswith(ACKNOWLEDGED)]
    return {bytes.fromhex(object_id): int(size) for _, object_id, size in lines}


def main(address: str) -> None:
    connection = Connection(address)
    written = 0
    while True:
        object_id, size = connection.new_id(), SIZES[written % len(SIZES)]
        connection.connector.set_object(object_id, content(bytes(object_id), size))
        # In one write, so that a reader of the log sees whole lines.
        sys.stdout.write(f"{ACKNOWLEDGED} {bytes(object_id).hex()} {size}\n")
        sys.stdout.flush()
        written += 1


if __name__ == "__main__":
    main(sys.argv[1])
