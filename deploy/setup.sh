#!/bin/sh
# Finds a Python that bertstream runs on and hands over to environment.py, which makes .venv.
#
#   deploy/setup.sh [--dev]      PYTHON=... names the Python to use, TORCH_BACKEND=... torch's wheel
set -eu
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}" ] && .venv/bin/python deploy/environment.py --check "$@" 2>/dev/null; then
    exit 0
fi

fits='import sys; sys.exit(sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info < (3, 14))'
without_venv=
for candidate in "${PYTHON:-python3.13}" python3.12 python3.11 python3; do
    # A name on the PATH may still not run: a pyenv shim whose version is switched off.
    if "$candidate" -c "$fits" >/dev/null 2>&1; then
        # uv fills an environment from outside; without uv the environment needs a pip of its own.
        if command -v uv >/dev/null 2>&1 || "$candidate" -c 'import ensurepip' >/dev/null 2>&1; then
            exec "$candidate" deploy/environment.py "$@"
        fi
        without_venv=${without_venv:-$candidate}
    fi
    [ -z "${PYTHON:-}" ] || break
done

if [ -n "$without_venv" ]; then
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "setup: $without_venv comes without its venv module: install it (Debian, Ubuntu: apt-get install python$version-venv) or install uv" >&2
elif [ -n "${PYTHON:-}" ]; then
    echo "setup: PYTHON=$PYTHON is no Python 3.11, 3.12 or 3.13 that runs here" >&2
else
    echo "setup: no Python 3.11, 3.12 or 3.13 found: install one, or name it with PYTHON=/path/to/python" >&2
fi
exit 1
