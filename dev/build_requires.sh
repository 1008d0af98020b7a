#!/bin/sh
# SPDX-License-Identifier: MIT
# Install what pyproject.toml wants for a build into a virtualenv: build_requires.sh VENV.
set -eu

"$1/bin/python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))
["build-system"]["requires"], sep="\n")' >"$1/build-requires.txt"
exec "$1/bin/python" -m pip install -q -r "$1/build-requires.txt"
