# SPDX-License-Identifier: MIT
"""The benchmark's own arithmetic: percentiles, CPU of a tree, what is published."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

# The benchmarks are no part of the installed package.
ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

pytest.importorskip("rich")

from benchmarks.lib import cpu, markdown  # noqa: E402
from benchmarks.lib.cases import CASES, Capability, Kind, Login  # noqa: E402
from benchmarks.lib.clients import (  # noqa: E402
    Address,
    ClientError,
    error_text,
    startup_message,
)
from benchmarks.lib.configs import (  # noqa: E402
    PASSWORD,
    VERIFIER,
    Layout,
    config_name,
    pgbouncer_files,
    pooler_files,
)
from benchmarks.lib.metadata import REQUIRED_KEYS, cpu_model  # noqa: E402
from benchmarks.lib.peers import Target, parse_version, unique_names  # noqa: E402
from benchmarks.lib.percentiles import (  # noqa: E402
    Band,
    Latency,
    parse_log,
    percentile,
    ratio_band,
)
from benchmarks.lib.pgbench import parse_output  # noqa: E402
from benchmarks.lib.results import Measurement, Results, ResultsError  # noqa: E402
from benchmarks.lib.runner import plan  # noqa: E402
from benchmarks.lib.storm import NONCE, Keys, answer  # noqa: E402
from benchmarks.lib.summary import summarise  # noqa: E402
from pooler.login.scram import Verifier  # noqa: E402
from tests.fuzz.scram_reference import proofs  # noqa: E402

# Percentiles and bands.


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (50, 50), (95, 95), (99, 99), (100, 100)]
)
def test_percentile_is_nearest_rank(percent: float, expected: float) -> None:
    assert percentile(range(1, 101), percent) == expected


@pytest.mark.parametrize("percent", [0, 50, 99, 100])
def test_percentile_of_one_sample_is_that_sample(percent: float) -> None:
    assert percentile([7.0], percent) == 7.0


@pytest.mark.parametrize(("samples", "percent"), [([], 50), ([1], -1), ([1], 101)])
def test_percentile_refuses_nonsense(samples: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match=r"samples|range"):
        percentile(samples, percent)


def test_latency_sorts_and_counts() -> None:
    assert Latency.of([30, 10, 20]) == Latency(3, 20, 30, 30, 30)
    assert Latency.of([]) is None


def test_log_times_are_the_third_field() -> None:
    lines = ["0 199 2241 0 1175850568 995598\n", "\n", "3 1 400 0 1175850569 608\n"]
    samples, failed = parse_log(lines)
    assert failed == 0
    assert samples == [(1175850568.995598, 2241), (1175850569.000608, 400)]


@pytest.mark.parametrize("word", ["failed", "skipped", "serialization"])
def test_log_counts_what_did_not_succeed(word: str) -> None:
    assert parse_log([f"0 1 {word} 0 1175850568 995598"]) == ([], 1)


@pytest.mark.parametrize("line", ["0 199 2241", "0 199 2.5 0 1175850568 995598"])
def test_log_of_another_format_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="not a pgbench log line"):
        parse_log([line])


def test_ratio_is_per_round_not_of_medians() -> None:
    # The machine was half as fast in round 2; the ratio must not notice.
    assert ratio_band([8, 16, 8], [10, 20, 10]) == Band(0.8, 0.8, 0.8)


def test_ratio_needs_as_many_rounds_and_a_base() -> None:
    assert ratio_band([1.0], [0.0]) is None
    with pytest.raises(ValueError, match="rounds"):
        ratio_band([1.0], [1.0, 2.0])


# CPU and memory of a process tree.

# The grandchild burns CPU, not time, so a busy machine changes nothing.
BURN_S = 0.3
BURN = f"""
import sys, time
while time.process_time() < {BURN_S}:
    pass
print("burnt", flush=True)
sys.stdin.readline()
"""
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {BURN!r}], stdin=subprocess.PIPE)
sys.stdin.readline()
child.communicate(b"\\n")
print("reaped", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.communicate("\n\n")


def expect(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == line


def test_tree_holds_the_cpu_of_the_living_and_of_the_dead(
    parent: subprocess.Popen[str],
) -> None:
    expect(parent, "burnt")
    alive = cpu.tree_cpu_seconds(parent.pid)
    assert len(cpu.tree_of(parent.pid, cpu.process_table())) == 2
    # Each of utime and stime is cut to a whole tick.
    assert alive >= BURN_S - 2 / cpu.ticks_per_second()

    assert parent.stdin is not None
    parent.stdin.write("\n")
    parent.stdin.flush()
    expect(parent, "reaped")
    assert cpu.tree_of(parent.pid, cpu.process_table()) == {parent.pid}
    assert cpu.tree_cpu_seconds(parent.pid) >= alive


def test_memory_is_of_the_whole_tree(parent: subprocess.Popen[str]) -> None:
    expect(parent, "burnt")
    memory = cpu.tree_memory(parent.pid)
    assert memory.processes == 2
    assert memory.rss_bytes >= memory.pss_bytes > 0


def test_tree_is_of_descendants_only() -> None:
    table = {
        pid: cpu.ProcessTimes(parent=parent, ticks=0)
        for pid, parent in [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (21, 20)]
    }
    assert cpu.tree_of(10, table) == {10, 11, 12}
    with pytest.raises(ProcessLookupError):
        cpu.tree_of(99, table)


def test_stat_with_a_hostile_name() -> None:
    numbers = " ".join(["S", "7", *["0"] * 9, "1", "2", "30", "40", *["0"] * 30])
    assert cpu.parse_stat(f"42 (a) b (c)) {numbers}") == cpu.ProcessTimes(7, 73)


def test_rollup() -> None:
    text = "00400000-7fff rollup\nRss:  12 kB\nPss:  10 kB\nPss_Anon: 4 kB\n"
    assert cpu.parse_rollup(text) == (10_240, 12_288)


# What pgbench says.

REPORT = """\
number of transactions actually processed: 1234
number of failed transactions: 0 (0.000%)
latency average = 0.5 ms
tps = 24101.5 (without initial connection time)
"""


def test_report_is_read() -> None:
    outcome = parse_output(0, REPORT, "")
    assert (outcome.tps, outcome.transactions, outcome.errors) == (24101.5, 1234, ())


def test_report_with_reconnection_is_read() -> None:
    text = REPORT.replace("without initial connection", "including reconnection")
    assert parse_output(0, text, "").tps == 24101.5


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [
        (2, REPORT, "pgbench: error: Run was aborted"),
        (0, "", ""),
        (0, REPORT.replace("failed transactions: 0", "failed transactions: 3"), ""),
        (0, REPORT, "pgbench: error: client 3 aborted in command 1"),
    ],
    ids=["exit code", "no report", "failed", "aborted client"],
)
def test_report_with_trouble_has_errors(code: int, stdout: str, stderr: str) -> None:
    assert parse_output(code, stdout, stderr).errors


# Targets, cases, order.


def test_versions_compare_as_numbers() -> None:
    assert parse_version("1.9.0") < parse_version("1.21") <= parse_version("1.21.0rc1")
    assert parse_version("unknown") == ()


def test_same_version_twice_gets_two_names() -> None:
    twin = Target(name="pgbouncer-1.24.1", brand="pgbouncer")
    names = [target.name for target in unique_names([twin, twin])]
    assert names == ["pgbouncer-1.24.1", "pgbouncer-1.24.1-2"]


def test_rounds_are_interleaved_and_the_unable_left_out() -> None:
    case = next(case for case in CASES if case.needs is Capability.PREPARED)
    able = frozenset({Capability.PREPARED})
    targets = [
        Target("a", "direct", capabilities=able),
        Target("b", "pgbouncer"),
        Target("c", "pooler", capabilities=able),
    ]
    steps = [(step.round, step.target.name) for step in plan([case], targets, 2)]
    assert steps == [(1, "a"), (1, "c"), (2, "a"), (2, "c")]


def test_cases_have_distinct_names_and_sane_rates() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(0 < case.sample_rate <= 1 for case in CASES)
    assert all(case.clients > 0 and case.kind in Kind for case in CASES)


def test_our_configuration_is_pgbouncers_and_workers() -> None:
    address = Address("127.0.0.1", 6432, "postgres", "bench")
    layout = Layout(address, "127.0.0.1", 5432, workers=2, version=(1, 24, 1))
    theirs = pgbouncer_files(layout)["pgbouncer.ini"].splitlines()
    ours = pooler_files(layout)["pooler.ini"].splitlines()
    assert sorted(set(ours) ^ set(theirs)) == [
        "cache_unnamed_statements = 0",
        "core_dumps = 1",
        "workers = 2",
    ]


def test_each_way_to_log_in_has_its_file() -> None:
    address = Address("127.0.0.1", 6432, "postgres", "bench")
    layout = Layout(address, "127.0.0.1", 5432, workers=1, version=(1, 24, 1))
    files = pooler_files(layout)
    assert next(iter(files)) == "pooler.ini"
    for login in Login:
        lines = files[config_name("pooler.ini", login)].splitlines()
        assert ("auth_type = scram-sha-256" in lines) is login.is_proven
        assert ("client_tls_protocols = tlsv1.3" in lines) is login.is_secured
    verifier = Verifier.parse(VERIFIER)
    assert verifier is not None
    assert verifier.matches(PASSWORD)


def test_a_client_of_the_storm_proves_its_password() -> None:
    keys = Keys(PASSWORD.encode())
    salt = base64.b64encode(b"salt")
    first = b"r=" + NONCE + b"theirs,s=" + salt + b",i=2"
    said = answer((11).to_bytes(4) + first, keys)[5:]
    without_proof, _, proof = said.rpartition(b",p=")
    bare = b"n=,r=" + NONCE
    assert proofs(PASSWORD.encode(), bare, first, without_proof)[0] == proof
    assert answer((0).to_bytes(4), keys) == b""
    with pytest.raises(ClientError, match="expected SCRAM"):
        answer((5).to_bytes(4) + b"salt", keys)


def test_old_pgbouncer_is_not_given_what_it_does_not_know() -> None:
    address = Address("127.0.0.1", 6432, "postgres", "bench")
    layout = Layout(address, "127.0.0.1", 5432, workers=1, version=(1, 20, 1))
    assert "prepared" not in pgbouncer_files(layout)["pgbouncer.ini"]


def test_startup_message_states_its_own_length() -> None:
    message = startup_message("u", "d")
    assert int.from_bytes(message[:4]) == len(message)


def test_error_response_is_readable() -> None:
    body = b"SFATAL\0VFATAL\0C53300\0Mno more connections\0\0"
    assert error_text(body) == "FATAL 53300 no more connections"


def test_cpu_model_of_the_first_processor() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: A: 1\nmodel name\t: B\n") == "A: 1"
    assert cpu_model("") is None


# What is published, and what is refused.

METADATA: dict[str, Any] = {
    **dict.fromkeys(REQUIRED_KEYS, ""),
    "commit": "0123456789abcdef",
    "dirty": False,
    "governor": None,
    "quick": False,
    "rounds": 5,
    "load_average": [0.1, 0.2, 0.3],
    "targets": [
        {"name": name, "brand": brand, "version": version, "version_key": key}
        for name, brand, version, key in [
            ("pooler", "pooler", "0.1.0", [0, 1, 0]),
            ("pgbouncer-1.9.0", "pgbouncer", "1.9.0", [1, 9, 0]),
            ("pgbouncer-1.24.1", "pgbouncer", "1.24.1", [1, 24, 1]),
        ]
    ],
}
CPU_US = {"pooler": 12.0, "pgbouncer-1.9.0": 20.0, "pgbouncer-1.24.1": 16.0}


def results(rounds: int = 5, **changes: Any) -> Results:
    return Results(
        {**METADATA, **changes},
        [
            Measurement("simple", target, number, tps=10.0, peer_cpu_us=value)
            for number in range(1, rounds + 1)
            for target, value in CPU_US.items()
        ],
    )


def page(folder: Path) -> Path:
    path = folder / "README.md"
    path.write_text(f"before\n{markdown.BEGIN}\nold\n{markdown.END}\nafter\n")
    return path


def test_complete_results_replace_what_is_between_the_markers(tmp_path: Path) -> None:
    path = page(tmp_path)
    markdown.publish(results(), path)
    text = path.read_text()
    assert text.startswith(f"before\n{markdown.BEGIN}\n")
    assert text.endswith(f"{markdown.END}\nafter\n")
    assert "old" not in text
    assert "0123456789ab" in text
    assert "| pooler |" in text
    markdown.publish(results(), path)
    assert path.read_text() == text


@pytest.mark.parametrize("key", REQUIRED_KEYS)
def test_missing_metadata_is_refused(key: str, tmp_path: Path) -> None:
    incomplete = results()
    del incomplete.metadata[key]
    path = page(tmp_path)
    before = path.read_text()
    with pytest.raises(markdown.RefusedError, match=f"metadata lacks {key}"):
        markdown.publish(incomplete, path)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (results(rounds=4), "4 rounds, fewer than 5"),
        (results(rounds=0), "no measurements"),
        (results(quick=True), "quick"),
        (results(commit=None), "commit"),
    ],
    ids=["rounds", "empty", "quick", "commit"],
)
def test_weak_results_are_refused(refused: Results, why: str) -> None:
    assert any(why in reason for reason in markdown.refusals(refused))
    with pytest.raises(markdown.RefusedError, match=why):
        markdown.section(refused)


def test_one_error_in_one_round_is_enough_to_refuse() -> None:
    flawed = results()
    flawed.measurements[4] = replace(flawed.measurements[4], errors=("aborted",))
    with pytest.raises(markdown.RefusedError, match="errors in 1 rounds"):
        markdown.section(flawed)


@pytest.mark.parametrize(
    "text", ["", markdown.BEGIN, f"{markdown.END}{markdown.BEGIN}"]
)
def test_a_page_without_the_markers_is_left_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(markdown.RefusedError):
        markdown.publish(results(), path)
    assert path.read_text() == text


def test_ratios_are_to_the_newest_pgbouncer() -> None:
    (table,) = summarise(results())
    assert table.baseline == "pgbouncer-1.24.1"
    ratios = {row.target: row.ratios["cpu"].median for row in table.rows}
    assert ratios["pooler"] == 0.75
    assert ratios["pgbouncer-1.9.0"] == 1.25


def test_an_invalid_row_has_no_ratio() -> None:
    flawed = results()
    flawed.measurements[0] = replace(flawed.measurements[0], errors=("aborted",))
    (table,) = summarise(flawed)
    row = next(row for row in table.rows if row.target == "pooler")
    assert row.ratios == {}
    assert row.errors == ("round 1: aborted",)


def test_results_survive_the_file(tmp_path: Path) -> None:
    full = results()
    full.measurements[0] = replace(
        full.measurements[0], latency=Latency(3, 1.0, 2.0, 3.0, 4.0), errors=("e",)
    )
    path = tmp_path / "results.json"
    full.save(path)
    assert Results.load(path) == full


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 99}'])
def test_another_file_is_no_results_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ResultsError):
        Results.load(path)
