"""The server's program, which comes with the package: a native one, that needs no Python.

It also keeps a directory for the processes that attach to it, where no server does.
"""

import os
import shutil
from typing import Optional

__all__ = ["PROGRAM", "path"]

PROGRAM = "scaler_object_storage_server"


def path() -> Optional[str]:
    """Where it is. None where the package was installed without it, as an editable one is."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", PROGRAM)
    return program if os.access(program, os.X_OK) else None


def found() -> str:
    """Where it is, or one that was built or installed without Python.

    Raises FileNotFoundError where there is none."""
    program = path() or shutil.which(PROGRAM)
    if program is None:
        raise FileNotFoundError(f"this installation of scaler_object_storage has no {PROGRAM}; install a wheel of it")
    return program
