#!/bin/sh
# SPDX-License-Identifier: MIT
# What make test-full and make fuzz need beyond make test: clang with libFuzzer's
# runtime, node, java with pgjdbc, OpenLDAP's server, libpam_wrapper, what a Debian
# package is built with and a clean root for it, network namespaces, and PostgreSQL 17
# and 18. As root on Debian and Ubuntu it installs what is missing, otherwise it prints
# the command.
set -eu

cd "$(dirname "$0")/.."

packages=
want() { # want COMMAND PACKAGE...
    if ! command -v "$1" >/dev/null 2>&1; then
        shift
        packages="$packages $*"
    fi
}
want clang clang
want node nodejs npm
want ip iproute2
want debootstrap debootstrap
command -v dh >/dev/null 2>&1 ||
    packages="$packages build-essential debhelper dh-python python3-all-dev python3-pip python3-venv"
want javac default-jdk-headless
[ -x /usr/sbin/slapd ] || packages="$packages slapd"
[ -n "$(find /usr/lib -name 'libpam_wrapper.so' -print -quit 2>/dev/null)" ] ||
    packages="$packages libpam-wrapper libpam-modules"
[ -n "$(find /usr/lib -name 'libclang_rt.fuzzer-*' -print -quit 2>/dev/null)" ] ||
    packages="$packages libclang-rt-14-dev"

if [ -n "$packages" ]; then
    if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        echo "installing$packages"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        # Word splitting is meant.
        # shellcheck disable=SC2086
        apt-get install -y -qq --no-install-recommends $packages >/dev/null
    else
        echo "missing for the full tests: sudo apt-get install$packages" >&2
        exit 1
    fi
fi
dev/fetch_drivers.sh
.venv/bin/python dev/fetch_postgres.py >/dev/null
