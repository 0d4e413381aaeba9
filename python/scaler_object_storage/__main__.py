"""The command ``scaler_object_storage``, also ``python -m scaler_object_storage``.

    scaler_object_storage serve [OPTIONS] [ADDRESS]

It becomes the object storage server: the options are those of ``scaler_object_storage_server``.
"""

import os
import sys
from typing import List, NoReturn, Optional

from scaler_object_storage import __version__, program

_USAGE = """\
usage: scaler_object_storage serve [OPTIONS] [ADDRESS]
       scaler_object_storage serve --help
       scaler_object_storage --version

serve becomes the object storage server for OpenGRIS Scaler, in this process.
"""


def main(arguments: Optional[List[str]] = None) -> NoReturn:
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] in (["--version"], ["-V"]):
        print(f"scaler_object_storage {__version__}")
        sys.exit(0)
    if words[:1] in (["--help"], ["-h"]):
        print(_USAGE, end="")
        sys.exit(0)
    if words[:1] != ["serve"]:
        print(_USAGE, end="", file=sys.stderr)
        sys.exit(2)
    try:
        server = program.found()
    except FileNotFoundError as error:
        sys.exit(f"scaler_object_storage: {error}")
    # The same process: signals and exit status are the server's.
    os.execv(server, [server, *words[1:]])


if __name__ == "__main__":
    main()
