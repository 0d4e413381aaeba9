#!/usr/bin/env bash
# Installs what the tests need, where it is missing.
#
#   needs.sh system                       what comes as system packages
#   needs.sh cargo PROGRAM                a program from crates.io, into cargo's own bin directory
#   needs.sh redis-client DIRECTORY       a virtual environment with the Python client of Redis
#   needs.sh python DIRECTORY             a virtual environment with what builds and tests the Python package
#   needs.sh scaler VERSION DIRECTORY     a virtual environment with that version of opengris-scaler, or the newest
set -euo pipefail
export PIP_DISABLE_PIP_VERSION_CHECK=1

system() {
    local missing=()
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    command -v c++ >/dev/null || missing+=(g++)
    command -v python3 >/dev/null || missing+=(python3)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    # The tests start servers of their own; the service that the package may start is not used.
    command -v redis-server >/dev/null || missing+=(redis-server)
    command -v setpriv >/dev/null || missing+=(util-linux)
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    command -v chromium >/dev/null || missing+=(chromium)
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
    else
        echo "the tests need these packages (Debian's names), please install them: ${missing[*]}" >&2
        exit 1
    fi
}

# Some tests also run with Valkey, where there is a package of it.
valkey() {
    command -v valkey-server >/dev/null && return
    if [ "$(id -u)" -eq 0 ] && [ -n "$(apt-cache --names-only search '^valkey-server$' 2>/dev/null)" ]; then
        echo "installing valkey-server"
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends valkey-server && return
    fi
    echo "there is no valkey-server: the tests run with Redis alone"
}

cargo_program() {
    command -v "$1" >/dev/null && return
    echo "installing $1"
    # These only run for seconds: compile them fast rather than well.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --locked --quiet "$1"
}

# A virtual environment with these packages: the newest of each, or the version that is given.
environment() {
    local directory=$1
    shift
    "$directory/bin/python" -c '' 2>/dev/null || { rm -rf "$directory"; python3 -m venv "$directory"; }
    if ! "$directory/bin/python" -m pip --quiet install --upgrade --only-binary :all: "$@"; then
        # Without a network, what an earlier run installed still serves.
        "$directory/bin/python" -c 'import sys, importlib.metadata as m; [m.version(name) for name in sys.argv[1:]]' "${@%%==*}" || exit 1
        echo "PyPI cannot be reached: using what is installed"
    fi
}

scaler() {
    local version=$1 directory=$2 wanted=opengris-scaler
    [ "$version" = newest ] || wanted+="==$version"
    environment "$directory" "$wanted" pytest
    "$directory/bin/python" -c 'import importlib.metadata as m; print("opengris-scaler", m.version("opengris-scaler"))'
}

case "$1" in
    system) system; valkey ;;
    cargo) cargo_program "$2" ;;
    scaler) scaler "$2" "$3" ;;
    redis-client) environment "$2" redis ;;
    python) environment "$2" maturin mypy pytest redis ;;
esac
