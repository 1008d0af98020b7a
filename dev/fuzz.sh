#!/bin/sh
# SPDX-License-Identifier: MIT
# Fuzz for so many seconds in all: fuzz.sh SECONDS [FOLDER]
#
# By libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer: the scanner, the
# relay without and with prepared statements, the SQL that it reads, TLS, and the proofs
# of clients; by atheris: a client's login, and ours to a server. First the canaries,
# each of which must be found, else the job proves nothing. Prints the number of
# executions. With POOLER_FUZZ_RUNS=N in the environment
# the inputs are the same each time: N for the slowest target, whatever time it takes
# (up to SECONDS for each), so that a check does not depend on luck. What is found lies in
# FOLDER/found (play it again with FOLDER/fuzzer, POOLER_FUZZ_TARGET and
# POOLER_FUZZ_TRACE=1); the corpus grows in FOLDER/corpus.
#
# Needs clang and libFuzzer's runtime: apt-get install clang libclang-rt-14-dev
set -eu

cd "$(dirname "$0")/.."
seconds=${1:?seconds are wanted: fuzz.sh SECONDS [FOLDER]}
folder=${2:-build/fuzz}
python=${PYTHON:-.venv/bin/python}
atheris=3.0.0
most_bytes=1500

mkdir -p "$folder/found"
folder=$(cd "$folder" && pwd)
"$python" tests/fuzz/build.py "$folder" >/dev/null
"$python" -m tests.fuzz.corpus "$folder/first" >/dev/null
[ -d "$folder/python/atheris" ] ||
    "$python" -m pip install -q --no-deps --only-binary :all: \
        --target "$folder/python" "atheris==$atheris"

export PYTHONPATH="$folder/python"
export ASAN_OPTIONS="detect_leaks=1:abort_on_error=0:quarantine_size_mb=32"
export UBSAN_OPTIONS="print_stacktrace=1"

core() { # core TARGET ARGUMENT...
    POOLER_FUZZ_TARGET=$1
    export POOLER_FUZZ_TARGET
    shift
    "$folder/fuzzer" -max_len=$most_bytes "$@"
}

login() {
    "$python" tests/fuzz/login_target.py -max_len=$most_bytes "$@"
}

server_login() {
    "$python" tests/fuzz/server_login_target.py -max_len=$most_bytes "$@"
}

# canary WORDS COMMAND...: the command must fail and say these words.
canary() {
    words=$1
    shift
    log="$folder/canary.log"
    if "$@" >"$log" 2>&1; then
        echo "fuzz: $* found nothing: what should find '$words' is not on" >&2
        exit 1
    fi
    grep -q "$words" "$log" || {
        tail -n 20 "$log" >&2
        echo "fuzz: $* did not end by '$words'" >&2
        exit 1
    }
}

limits="-seed=1 -max_total_time=60 -artifact_prefix=$folder/canary-"
# Word splitting is meant.
# shellcheck disable=SC2086
{
    canary "heap-buffer-overflow" core canary_heap $limits
    canary "signed integer overflow" core canary_overflow $limits
    canary "detected memory leaks" core canary_leak $limits
    canary "canary: found" core canary_coverage $limits
    printf '\377PGSQ' >"$folder/canary.input"
    canary "canary: found" login $limits "$folder/canary.input"
    canary "canary: found" server_login $limits "$folder/canary.input"
}
rm -f "$folder"/canary-* "$folder"/canary.*
echo "canaries: found"

# fuzz NAME SHARE SPEED COMMAND...: SHARE is how many parts of ten of the time, SPEED how
# many runs are made here for one of the slowest target.
fuzz() {
    name=$1
    if [ -n "${POOLER_FUZZ_RUNS:-}" ]; then
        extent="-seed=1 -runs=$((POOLER_FUZZ_RUNS * $3)) -max_total_time=$seconds"
    else
        extent="-max_total_time=$((seconds * $2 / 10 + 1))"
    fi
    shift 3
    mkdir -p "$folder/corpus/$name"
    log="$folder/$name.log"
    status=0
    # Word splitting is meant.
    # shellcheck disable=SC2086
    "$@" $extent -timeout=20 -rss_limit_mb=3000 \
        -artifact_prefix="$folder/found/$name-" \
        "$folder/corpus/$name" "$folder/first/$name" >"$log" 2>&1 || status=$?
    done=$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$log")
    if [ "$status" -ne 0 ] || [ -z "$done" ]; then
        grep -v '^#\|^INFO' "$log" | tail -n 40 >&2
        echo "fuzz: $name has found something, see $folder/found and $log" >&2
        failed=1
    fi
    echo "$name: ${done:-?} executions"
}

failed=0
fuzz scan 1 50 core scan
fuzz relay 1 2 core relay
fuzz statements 3 1 core statements
fuzz sql 1 20 core sql
fuzz tls 1 1 core tls
fuzz auth 1 20 core auth
fuzz login 1 5 login
fuzz server_login 1 5 server_login
exit $failed
