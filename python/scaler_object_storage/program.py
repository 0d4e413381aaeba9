"""The program that comes with the package: a native one, that needs no Python. It is the server, the tools for a store's data, and the
keeper of a directory for the processes that attach to it where no server does.
"""

import os
import shutil
from typing import List, Optional, Sequence

__all__ = ["PROGRAM", "command", "path"]

PROGRAM = "scaler_object_storage"

# The server alone, where it was built or installed without Python.
_SERVER = "scaler_object_storage_server"


def path() -> Optional[str]:
    """Where it is. None where the package was installed without it, as an editable one is."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", PROGRAM)
    return program if os.access(program, os.X_OK) else None


def command(words: Sequence[str]) -> List[str]:
    """The program and these arguments of it; of ``serve`` also that of a server that was built or installed without Python.

    Raises FileNotFoundError where there is none."""
    program = path()
    if program is not None:
        return [program, *words]
    # Not PROGRAM in the PATH: that is the command that asks.
    server = shutil.which(_SERVER) if words[:1] == ["serve"] else None
    if server is None:
        raise FileNotFoundError("this installation of scaler_object_storage has no program of that name; install a wheel of it")
    return [server, *words[1:]]
