#!/bin/sh
# SPDX-License-Identifier: MIT
# Make sure that the build tools are there: a C compiler, make, OpenSSL's headers, and
# a Python of at least 3.11 with its headers and the venv module. As root on Debian and
# Ubuntu it installs what is missing; otherwise it prints the command. Silent when all
# is well.
set -eu

cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

have() {
    command -v "$1" >/dev/null 2>&1
}

# What is missing, one word per line of the tables in debian() and fedora().
missing() {
    have cc || have gcc || have clang || echo compiler
    have make || echo make
    echo '#include <openssl/ssl.h>' | cc -E - >/dev/null 2>&1 || echo openssl
    # A virtualenv that is already there answers faster than a version manager's
    # shim, and about the same Python.
    asked=$python
    [ -x .venv/bin/python ] && asked=.venv/bin/python
    have "$asked" || {
        echo python headers venv
        return
    }
    "$asked" -I -S -c '
import os, sys, sysconfig
if sys.version_info < (3, 11):
    print("old")
    sys.exit()
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    print("headers")
try:
    import ensurepip, venv
except ImportError:
    print("venv")
'
}

too_old() {
    {
        echo "pooler needs Python 3.11 or newer, but $python is $("$python" -V 2>&1)."
        echo "Choose another one: make build PYTHON=python3.12 (any path will do)."
        echo "If .venv was made with the old one, remove it first: rm -rf .venv"
    } >&2
    exit 1
}

# python3.12 has its own packages; a path or another name means the default ones.
case $python in
    python3.*) packaged=$python ;;
    *) packaged=python3 ;;
esac

debian() {
    for thing in "$@"; do
        case $thing in
            compiler) echo gcc libc6-dev ;;
            make) echo make ;;
            openssl) echo libssl-dev ;;
            python) echo "$packaged" ;;
            headers) echo "$packaged-dev" ;;
            venv) echo "$packaged-venv" ;;
        esac
    done
}

# The venv module is part of the main package there.
fedora() {
    for thing in "$@"; do
        case $thing in
            compiler) echo gcc ;;
            make) echo make ;;
            openssl) echo openssl-devel ;;
            python | venv) echo "$packaged" ;;
            headers) echo "$packaged-devel" ;;
        esac
    done
}

wanted=$(missing | tr '\n' ' ')
case $wanted in
    '') exit 0 ;;
    *old*) too_old ;;
esac

# Word splitting is meant: these are lists of plain words.
# shellcheck disable=SC2086
if have apt-get; then
    packages=$(debian $wanted | tr '\n' ' ' | sed 's/ $//')
    if [ "$(id -u)" = 0 ]; then
        echo "installing $packages"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends $packages >/dev/null
        wanted=$(missing | tr '\n' ' ')
        case $wanted in
            '') exit 0 ;;
            *old*) too_old ;;
        esac
        echo "still missing for $python: $wanted" >&2
        exit 1
    fi
    command="sudo apt-get install $packages"
elif have dnf; then
    command="sudo dnf install $(fedora $wanted | tr '\n' ' ' | sed 's/ $//')"
else
    command="(with your package manager) a C compiler, make, OpenSSL's and Python's headers"
fi

echo "The build needs something that is missing here: $wanted" >&2
echo "Install it: $command" >&2
exit 1
