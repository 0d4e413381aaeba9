"""The package as it is installed."""

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import List, Optional

import pytest
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


def other_pythons() -> List[str]:
    """Those that the package is for, and that can be run here, but for this one."""
    names = [f"python3.{minor}" for minor in range(9, 30) if minor != sys.version_info.minor]
    found = [path for path in map(shutil.which, names) if path is not None]
    # Version managers put programs on the path that end with an error.
    return [path for path in found if subprocess.run([path, "-c", "import ensurepip"], capture_output=True).returncode == 0]


@pytest.mark.parametrize("python", other_pythons() or [None])
def test_the_package_works_with_other_pythons(python: Optional[str], tmp_path: Path) -> None:
    """The buffer protocol, which came into the stable ABI with 3.11, is declared by hand."""
    if python is None:
        warnings.warn(f"there is no Python here but {sys.version}")
        return
    run(python, "-m", "venv", tmp_path / "venv")
    other = tmp_path / "venv/bin/python"
    run(other, "-m", "pip", "install", "--only-binary", ":all:", "pytest", os.environ["WHEEL"])
    tests = Path(__file__).parent
    run(other, "-m", "pytest", "--noconftest", tests / "test_store.py", tests / "test_process.py", tests / "test_attached.py")


def test_the_types_are_those_of_the_module() -> None:
    run(sys.executable, "-m", "mypy.stubtest", "scaler_object_storage._native", "--concise")


def test_help_shows_what_the_types_say() -> None:
    stub = Path(scaler_object_storage.__file__).with_name("_native.pyi")
    described = 0
    for of in ast.parse(stub.read_text()).body:
        if not isinstance(of, ast.ClassDef) or of.name.startswith("_"):
            continue
        made = getattr(scaler_object_storage, of.name)
        assert inspect.getdoc(made) == ast.get_docstring(of), of.name
        for method in of.body:
            # Python has words of its own for those between two underscores.
            is_special = isinstance(method, ast.FunctionDef) and method.name.startswith("__")
            if isinstance(method, ast.FunctionDef) and not is_special and ast.get_docstring(method) is not None:
                described += 1
                assert inspect.getdoc(getattr(made, method.name)) == ast.get_docstring(method), (of.name, method.name)
    assert described > 40


def test_the_package_and_its_tests_are_well_typed() -> None:
    options = ["--strict", "--python-version", "3.10", "--no-incremental", "--cache-dir", os.devnull]
    run(sys.executable, "-m", "mypy", *options, "-p", "scaler_object_storage")
    run(sys.executable, "-m", "mypy", *options, *Path(__file__).parent.glob("*.py"))


def test_the_redis_backend_is_typed_under_scalers_name_as_well(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from scaler.object_storage.redis_backend import RedisObjectStorageBackend\nreveal_type(RedisObjectStorageBackend.exists)\n"
    )
    shown = run(sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir", os.devnull, program)
    # How a type is written depends on mypy's version; what has none is Any.
    assert "object_id: " in shown and "bool" in shown and "Any" not in shown, shown


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
    # One native program came along: both ways to start it, as the server and as a tool, and as the keeper of a store that is attached to.
    with zipfile.ZipFile(wheel) as content:
        assert [name for name in content.namelist() if "/bin/" in name] == ["scaler_object_storage/bin/scaler_object_storage"]
    for serve in ([tmp_path / "venv/bin/scaler_object_storage"], [python, "-m", "scaler_object_storage"]):
        assert run(*serve, "serve", "--version").split() == ["scaler_object_storage_server", version]
        assert run(*serve, "--version").split() == ["scaler_object_storage", version]
    program = f"""
from scaler_object_storage import ObjectStore
store = ObjectStore.attach(local={{"path": "{tmp_path}/objects", "max_size_mb": 64, "keeper_idle_seconds": 1}})
store.put(b"id", b"data")
print(store.get_bytes(b"id"))
"""
    assert run(python, "-c", program, PATH=str(tmp_path / "venv/bin")).strip() == "b'data'"
    shown = json.loads(run(tmp_path / "venv/bin/scaler_object_storage", "list", tmp_path / "objects", "--json"))
    assert (shown["id"], shown["data_bytes"]) == (b"id".hex(), 4)


def test_the_example_in_the_documentation_of_the_package_is_true() -> None:
    run(sys.executable, "-m", "doctest", "-o", "ELLIPSIS", scaler_object_storage.__file__)
