"""The command ``scaler_object_storage``, also ``python -m scaler_object_storage``.

It becomes the native program that comes with the package: the server (``serve``) and the tools for a store's data. ``--help`` says which.
"""

import os
import sys
from typing import List, NoReturn, Optional

from scaler_object_storage import program


def main(arguments: Optional[List[str]] = None) -> NoReturn:
    """Becomes the program."""
    try:
        words = program.command(sys.argv[1:] if arguments is None else arguments)
    except FileNotFoundError as error:
        sys.exit(f"scaler_object_storage: {error}")
    # The same process: signals and exit status are the program's.
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
