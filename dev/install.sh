#!/bin/sh
# SPDX-License-Identifier: MIT
# Install this tree, editable, into a virtualenv: install.sh VENV '.[extras]'.
#
# Without build isolation, because an isolated Cython would compile everything once
# more; so what pyproject.toml wants for a build is installed first.
set -eu

dev/build_requires.sh "$1"
POOLER_WITHOUT_EXTENSIONS=1 exec "$1/bin/python" -m pip install -q --no-build-isolation \
    -e "$2"
