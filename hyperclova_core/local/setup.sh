#!/usr/bin/env bash
# Sets up .venv from the lock and makes sure that Java 17+ is there. Run by the Makefile; safe to run again.
#   VENV             folder of the environment (.venv)
#   PYTHON           interpreter to make it with (python3.11, python3.12 or python3)
#   TORCH_INDEX_URL  package index to take torch from, such as one with CPU-only builds
set -euo pipefail
cd "$(dirname "$0")/../.."
VENV=${VENV:-.venv}

fail() { printf '%s\n' "$@" >&2; exit 64; }

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            command -v "$candidate"; return
        fi
    done
    fail "Python 3.11 or 3.12 is needed" "  remedy: install it (Debian/Ubuntu: sudo apt-get install python3.11 python3.11-venv), or give it: make run PYTHON=/path/to/python3.11"
}

java_version() {
    local java=${JAVA_HOME:+$JAVA_HOME/bin/}java
    command -v "$java" >/dev/null || { echo 0; return; }
    # "1.8.0_392" for Java 8, "17.0.15" from 9 on
    "$java" -version 2>&1 | sed -n 's/.*version "\(1\.\)\{0,1\}\([0-9]*\).*/\2/p' | head -n 1
}

ensure_java() {
    local version; version=$(java_version)
    [ "${version:-0}" -ge 17 ] && return
    if [ -z "${JAVA_HOME:-}" ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "Installing Java 17 (openjdk-17-jre-headless)"
        apt-get update -qq && apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless >/dev/null
        version=$(java_version)
        [ "${version:-0}" -ge 17 ] && return
    fi
    fail "Spark needs Java 17 or newer; found: ${version:-none}" \
         "  remedy: sudo apt-get install openjdk-17-jre-headless   (Debian/Ubuntu), brew install openjdk@17 (macOS), or set JAVA_HOME to one"
}

ensure_environment() {
    local wanted stamp="$VENV/.hyperclova-lock"
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return; fi
    local python; python=$(find_python)
    [ -x "$VENV/bin/python" ] || { echo "Making $VENV with $python"; "$python" -m venv "$VENV"; }
    echo "Installing from the lock (a few minutes)"
    # modules are compiled when they are first imported: most of these packages' never are, and all of them take two minutes
    local pip=("$VENV/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt)
    if [ -n "${TORCH_INDEX_URL:-}" ]; then
        # what torch needs in turn comes from wherever pip is told to look; its own index is put beside that, and torch's pin keeps its build
        PIP_EXTRA_INDEX_URL="$TORCH_INDEX_URL${PIP_EXTRA_INDEX_URL:+ $PIP_EXTRA_INDEX_URL}" "${pip[@]}" torch
    fi
    "${pip[@]}" --editable '.[local,dev]' || fail "The packages cannot be installed" "  remedy: see pip's message above; behind a proxy set PIP_INDEX_URL"
    "$VENV/bin/python" -m pip check --disable-pip-version-check >/dev/null || fail "The installed packages do not fit together" "  remedy: remove $VENV and run again"
    echo "$wanted" >"$stamp"
}

ensure_java
ensure_environment
