#!/bin/sh
# SPDX-License-Identifier: MIT
# Refuse a PORT that is none, before anything is installed or compiled.
set -eu

port=${PORT-}
case $port in
    '' | *[!0-9]* | ??????*) ;;
    *) [ "$port" -ge 1 ] && [ "$port" -le 65535 ] && exit 0 ;;
esac
echo "PORT must be a number from 1 to 65535, and \"$port\" is none: make run PORT=7000" >&2
exit 1
