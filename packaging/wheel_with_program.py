"""Builds the Python package: maturin's wheel, and in it the native program: the server, the tools, and the keeper of directories for the
processes that attach to them.

A build backend (PEP 517) as `pip` and `build` call it, and a command:

    python packaging/wheel_with_program.py WHEEL PROGRAM    puts the program into a wheel that maturin has built
"""

import argparse
import base64
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

try:
    from maturin import (  # noqa: F401
        build_editable,
        build_sdist,
        get_requires_for_build_editable,
        get_requires_for_build_sdist,
        get_requires_for_build_wheel,
        prepare_metadata_for_build_editable,
        prepare_metadata_for_build_wheel,
    )
except ImportError:
    pass  # the command alone needs nothing of it

PROGRAM = "scaler_object_storage"

# Where the package looks for it: `program.py`. Not among the scripts, where the command of the same name is that becomes it.
PLACE = f"scaler_object_storage/bin/{PROGRAM}"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    import maturin

    name = maturin.build_wheel(wheel_directory, config_settings, metadata_directory)
    add(Path(wheel_directory) / name, build_program(config_settings))
    return name


def build_program(config_settings):
    """Compiles it as maturin has compiled the module; its path."""
    given = (config_settings or {}).get("build-args", os.environ.get("MATURIN_PEP517_ARGS", ""))
    arguments = given if isinstance(given, list) else shlex.split(given)
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", default="release")
    parser.add_argument("--target")
    for flag in ("--locked", "--frozen", "--offline"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_known_args(arguments)[0]
    command = ["cargo", "build", "--bin", PROGRAM, "--profile", options.profile, "--message-format", "json-render-diagnostics"]
    command += [f"--{flag}" for flag in ("locked", "frozen", "offline") if getattr(options, flag)]
    command += ["--target", options.target] if options.target else []
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    for line in said.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == PROGRAM:
            return Path(message["executable"])
    raise RuntimeError(f"cargo has built no {PROGRAM}")


def add(wheel, program):
    """Puts the program into the wheel, without what only a debugger reads."""
    with tempfile.TemporaryDirectory(dir=wheel.parent) as directory:
        stripped = Path(directory) / PROGRAM
        shutil.copyfile(program, stripped)
        if shutil.which("strip"):
            subprocess.run(["strip", str(stripped)], check=True)
        content = stripped.read_bytes()
        new = Path(directory) / wheel.name
        with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as to:
            records = {}
            for entry in old.infolist():
                if entry.filename == PLACE:
                    continue
                if entry.filename.endswith(".dist-info/RECORD"):
                    records[entry.filename] = old.read(entry)
                else:
                    to.writestr(entry, old.read(entry), zipfile.ZIP_DEFLATED)
            [(record, lines)] = records.items()
            to.writestr(entry_of(PLACE, 0o755), content)
            lines = [line for line in lines.decode().splitlines() if not line.startswith(f"{PLACE},")]
            lines.insert(0, f"{PLACE},{digest(content)},{len(content)}")
            to.writestr(entry_of(record, 0o644), "".join(f"{line}\n" for line in lines))
        os.replace(new, wheel)


def entry_of(name, mode):
    entry = zipfile.ZipInfo(name, time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", "315532800")))[:6])
    entry.external_attr = (0o100000 | mode) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def digest(content):
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    add(Path(sys.argv[1]), Path(sys.argv[2]))
