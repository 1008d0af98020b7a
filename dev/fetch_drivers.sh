#!/bin/sh
# SPDX-License-Identifier: MIT
# Fetch the drivers that are not Python packages, for tests/drivers: the npm packages
# of tests/drivers/node/package.json into .venv/node_drivers (or $1), and pgjdbc as a
# Debian package. Needs node, npm and a JDK; as root on Debian and Ubuntu it installs
# pgjdbc, otherwise it prints the command. What is there already is kept.
set -eu

cd "$(dirname "$0")/.."
folder=${1:-.venv/node_drivers}
jar=${POOLER_PGJDBC:-/usr/share/java/postgresql.jar}
status=0

have() {
    command -v "$1" >/dev/null 2>&1
}

fail() {
    echo "fetch_drivers: $*" >&2
    status=1
}

wanted=tests/drivers/node/package.json
if ! have node || ! have npm; then
    fail "node and npm are missing: apt-get install nodejs npm"
elif ! cmp -s "$wanted" "$folder/package.json"; then
    fresh=$folder.new
    rm -rf "$fresh"
    mkdir -p "$fresh"
    cp "$wanted" "$fresh/package.json"
    if (cd "$fresh" && npm install --silent --ignore-scripts --no-audit --no-fund); then
        rm -rf "$folder"
        mv "$fresh" "$folder"
        echo "fetch_drivers: node drivers are in $folder"
    else
        rm -rf "$fresh"
        fail "npm install failed"
    fi
fi

# Its compiler too: the test is a single source file.
have javac || fail "java is missing: apt-get install default-jdk-headless"
if [ ! -e "$jar" ]; then
    install="apt-get install -y --no-install-recommends libpostgresql-jdbc-java"
    if have apt-get && [ "$(id -u)" = 0 ]; then
        # shellcheck disable=SC2086
        { apt-get update -qq && $install >/dev/null; } || fail "failed: $install"
    else
        fail "pgjdbc ($jar) is missing: $install"
    fi
fi
exit "$status"
