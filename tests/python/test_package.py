"""The package as it is installed."""

import os
import subprocess
import sys
from pathlib import Path

import scaler_object_storage

# Generous: it only bounds how long a defect takes to be reported.
SECONDS_MAX = 300


def run(*command: object, **environment: str) -> str:
    ended = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        env={**os.environ, **environment},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_types_are_those_of_the_module() -> None:
    run(sys.executable, "-m", "mypy.stubtest", "scaler_object_storage._native", "--concise")


def test_the_package_and_its_tests_are_well_typed() -> None:
    options = ["--strict", "--python-version", "3.10", "--no-incremental", "--cache-dir", os.devnull]
    run(sys.executable, "-m", "mypy", *options, "-p", "scaler_object_storage")
    run(sys.executable, "-m", "mypy", *options, *Path(__file__).parent.glob("*.py"))


def test_the_wheel_installs_without_rust(tmp_path: Path) -> None:
    wheel = os.environ["WHEEL"]
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    # No compiler, no cargo, no network.
    run(python, "-m", "pip", "install", "--no-index", wheel, PATH=str(tmp_path / "venv/bin"))
    program = "import scaler_object_storage as package; print(package.__version__, package.__file__)"
    version, place = run(python, "-c", program).split()
    assert version == scaler_object_storage.__version__
    assert place.startswith(str(tmp_path))


def test_the_example_in_the_documentation_of_the_package_is_true() -> None:
    run(sys.executable, "-m", "doctest", "-o", "ELLIPSIS", scaler_object_storage.__file__)
