"""The benchmarks' table, their programs on the host and in a guest, and the page of figures."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import console
from tests.bench import image
from tests.bench.rows import ROWS, SESSIONS, TARGETS, selected
from tests.bench.runner import (
    Runner,
    Watch,
    clock_failure,
    memory_beyond_guest,
    processor_seconds,
)
from tests.bench.sides import Side, sides
from tools.performance import render
from tools.performance_plot import plot
from tools.performance_rows import Results
from vmmuser.assets import ROOT

# What a small run of each program computes. A changed sum is a changed workload: earlier figures
# no longer compare.
CHECKSUMS = {
    "hash 3": "4ccc74cfa6afb3b7",
    "quicksort 3": "5bbb880909ac5d28",
    "sha256 3": "94e2ee57b5990bc2",
    "gzip 3": "2756eded9f310be3",
    "interpreter 3": "b341ae37294bb7b4",
    "tree 3": "d145e61ebf0df4ec",
    "strings 3": "702fb363203000bd",
    "sieve 3": "41192a50be7083e0",
    "dot 3": "e2f964ea161f91fe",
    "saxpy 3": "e0f54f031af85790",
    "matrix 3": "bc5f2557e410e39b",
    "ode 3": "4079b1257916eec3",
    "simd 3": "b508300ea092e0c2",
    "memcpy 1": "f77adeec0d222c30",
    "getppid 1": "00000000000003e8",
    "fault 1": "0000000000000100",
    "forkexec 2": "0000000000000002",
    "cold 8": "0000000000000008",
    "pipe 1": "0000000000000037",
    "one 1": "000000000000005f",
    "two 1": "00000000000000be",
    "four 1": "000000000000017c",
    "futex 1": "000000000000000a",
    "shootdown 1": "0000000000000010",
}
INTEGER = [
    words for words in CHECKSUMS if words.split()[0] in {r.name for r in selected("integer")}
]


def _sum(program: str, words: str) -> str:
    name, count = words.split()
    directory = image.programs()
    done = subprocess.run(
        [directory / program, name, count],
        env={"BENCH_COLD": str(directory / "bench-cold")},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    begin, end = done.stdout.splitlines()
    shown = f"{name}32" if program == "bench32" else name
    assert begin == f"bench {shown} begin"
    assert end.startswith(f"bench {shown} end ")
    return end.split()[-1]


@pytest.mark.parametrize("words", CHECKSUMS)
def test_program_computes_what_it_did(words: str) -> None:
    assert _sum("bench", words) == CHECKSUMS[words]


@pytest.mark.parametrize("program", ["bench32", "bench-cold"])
@pytest.mark.parametrize("words", INTEGER)
def test_without_libc_it_is_the_same(program: str, words: str) -> None:
    assert _sum(program, words) == CHECKSUMS[words]


def _mix(numbers: list[int]) -> str:
    total = 0xCBF29CE484222325
    for number in numbers:
        total = (total ^ number) * 0x100000001B3 & (2**64 - 1)
    return f"{total:016x}"


def test_sha256_is_sha256() -> None:
    state, data = 3, bytearray()
    for _ in range(16384):
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        data.append(state & 255)
    digest = hashlib.sha256(data).digest()
    words = [int.from_bytes(digest[i : i + 4], "big") for i in range(0, 32, 4)]
    assert _sum("bench", "sha256 1") == _mix(words)


def test_sieve_finds_the_primes() -> None:
    primes = sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, 32768))
    assert _sum("bench", "sieve 1") == _mix([primes])


def test_table_hangs_together() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert {row.session for row in ROWS} == set(SESSIONS)
    assert all(name in names for target in TARGETS for name in target.rows)
    timed = {r.name for r in ROWS if r.measure == "time" and not SESSIONS[r.session].disk}
    tested = {words.split()[0] for words in CHECKSUMS}
    assert timed == tested | {f"{words.split()[0]}32" for words in INTEGER}
    assert [r.name for r in selected("integer*,two")][:2] == ["hash", "quicksort"]
    assert selected("nothing") == []


def test_a_command_line_fits_into_linuxs_limit() -> None:
    for side in sides(["translate", "emulate"], has_file=True):
        for session in SESSIONS:
            rows = [row for row in ROWS if row.session == session]
            words = ",".join(f"{program}:{count}" for program, count in side.work(rows))
            assert len(words) < 1500  # COMMAND_LINE_SIZE of x86 is 2048


def test_same_c_file_each_time() -> None:
    text = image.c_program()
    assert text == image.c_program()
    assert text.count("\n") == 2000


def _transcript(*lines: tuple[float, str]) -> console.Transcript:
    return console.Transcript(["x"], lines=list(lines))


def test_clock_that_runs_slow_is_a_failure() -> None:
    first = (1.0, "bench clock 000000005.000000000")
    assert clock_failure(_transcript(first, (11.0, "bench clock 000000014.980000000"))) is None
    wrong = clock_failure(_transcript(first, (11.0, "bench clock 000000014.900000000")))
    assert wrong == "the guest's clock counted 9.900 s where the host's counted 10.000 s"
    assert clock_failure(_transcript(first)) is None  # the missing end is what is reported then


def test_memory_of_a_process_is_its_share() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert 0 < memory_beyond_guest(child.pid) < 64
        watch = Watch("idle")
        watch(child.pid, "bench sleep begin")
        watch(child.pid, "bench sleep end 0")
        assert watch.idle_percent is not None
        assert watch.memory_mib is not None
    finally:
        child.kill()
        child.wait()


def _runner(*columns: str, **counts: int) -> Runner:
    image.programs()
    rows = [replace(row, count=counts[row.name]) for row in ROWS if row.name in counts]
    return Runner(rows, [Side(column) for column in columns], lambda text: None)


def test_host_and_guest_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.runner.STAMP_SECONDS", 2)  # not what is tested here
    runner = _runner("native", "boot/emulate", hash=30, saxpy=30, hash32=30)
    policy = os.sched_getscheduler(0)
    for session in runner.sessions:
        for side in runner.sides:
            runner.run(side, session, "off")
    runner.compare_checksums()
    for name in ("hash", "saxpy", "hash32"):
        native, guest = (runner.cells[name]["off"][c] for c in ("native", "boot/emulate"))
        assert native.failures == guest.failures == []
        assert native.wrong is guest.wrong is None
        assert (native.count, guest.count) == (30, 3)  # the interpreter does a tenth
        assert set(native.checksums) == {"30", "3"}
        assert guest.checksums == {"3": native.checksums["3"]}
        assert len(native.samples) == len(guest.samples) == 1
    assert os.sched_getscheduler(0) == policy


def test_short_rows_are_measured_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = _runner("native", "tcg/max", "kvm/translate", sieve=2)
    runner.sides.append(Side("kvm/emulate", judged=False))
    order: list[str] = []
    monkeypatch.setattr(runner, "run", lambda side, *_: order.append(side.column))
    runner.round(0, "off")
    more = ["native", "kvm/translate"] * (SESSIONS["integer"].turns - 1)
    assert order == ["native", "tcg/max", "kvm/translate", "kvm/emulate", *more]
    assert more


def test_sessions_that_are_short_under_tcg_take_their_turns_there() -> None:
    kernel = SESSIONS["kernel"]
    assert Side("tcg/max").turns("kernel") == kernel.tcg_turns > 1
    assert Side("kvm/translate").turns("kernel") == kernel.turns > 1
    assert Side("kvm/emulate", judged=False).turns("kernel") == 1


def test_engines_for_comparison_run_once() -> None:
    engines = ["translate", "emulate"]
    columns = [side.column for side in sides(engines, has_file=False) if side.judged]
    assert columns == ["native", "tcg/default", "tcg/max", "kvm/translate", "boot/translate"]
    runner = _runner("native", sieve=2)
    runner.sides.append(Side("tcg/max", judged=False))
    runner.round(0, "default", only_judged=True)
    assert set(runner.cells["sieve"]["default"]) == {"native"}


def test_another_checksum_than_the_hosts_is_a_failure() -> None:
    runner = _runner("native", sieve=2)
    runner.round(0, "off")
    cell = runner.cells["sieve"]["off"]["native"]
    runner.cells["sieve"]["off"]["boot/translate"] = replace(
        cell, checksums={"2": "0"}, failures=[]
    )
    runner.compare_checksums()
    wrong = runner.cells["sieve"]["off"]["boot/translate"].wrong
    assert wrong is not None
    assert wrong.startswith("checksum 0, the host's is ")


def test_a_machine_that_does_not_start_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Side, "command", lambda *_: ["false"])
    runner = _runner("tcg/max", sieve=2)
    runner.round(0, "off")
    cell = runner.cells["sieve"]["off"]["tcg/max"]
    assert cell.samples == []
    assert cell.failures[0].startswith("no result; status 1")


def _cell(
    count: int, *samples: float, failures: tuple[str, ...] = (), wrong: str | None = None
) -> dict[str, Any]:
    fields = {"samples": list(samples), "failures": list(failures), "wrong": wrong}
    return fields | {"count": count, "checksums": {}}


def _results() -> dict[str, Any]:
    good = {
        "native": _cell(100, 0.1, 0.3, 0.2),
        "tcg/default": _cell(100, 1.2),
        "tcg/max": _cell(100, 1.0, wrong="checksum 1, the host's is 2"),
        "kvm/emulate": _cell(10, 0.04, failures=("hung | up",)),
    }
    row = {"name": "a", "what": "row a", "count": 100, "unit": "s", "measure": "time"}
    target = {"what": "a", "rows": ["a"], "column": "kvm"}
    return {
        "version": 1, "date": "2026-01-02T03:04:05", "commit": "abc", "changes": False,
        "qemu": "QEMU", "load_after": 1.0, "runs": 3, "engines": ["emulate"],
        "machine": {"processor": "P", "count": 2, "release": "r", "load": 0.5},
        "scales": {"emulate": 0.1}, "columns": list(good),
        "rows": [row | {"cells": {"off": good, "default": {"native": _cell(100, 0.1)}}}],
        "targets": [
            target | {"against": "native", "limit": 2.2},
            target | {"against": "native", "limit": 1.5},
            target | {"against": "tcg", "limit": 2},
            target | {"against": "tcg", "limit": None},
            target | {"rows": ["not measured"], "against": "tcg", "limit": 1},
            target | {"what": "b", "rows": ["a", "not measured"], "against": "tcg", "limit": 1},
        ],
    }  # fmt: skip


def test_targets_are_judged_per_unit_of_work() -> None:
    lines = Results(_results()).targets()
    assert "| a | x native | at most 2.2 | 2 met (1 run failed) | hole |" in lines
    assert "| a | x native | at most 1.5 | 2 **missed** (1 run failed) | hole |" in lines
    assert "| a | x TCG | at least 2 | 3 met (1 run failed) | hole |" in lines
    assert "| a | x TCG | reported | 3 (1 run failed) | hole |" in lines
    assert "| b | x TCG | at least 1 | hole | hole |" in lines  # a part of the rows is not enough
    assert sum(line.startswith("| a |") for line in lines) == 4


def test_page_names_each_hole() -> None:
    page = render(_results())
    assert "| a | row a | s | 0.2 | 1.2 | hole | 0.4 (1 run failed) | 2 | 3 |" in page
    assert "- a, TCG max, mitigations off: checksum 1, the host's is 2" in page
    assert "- a, QEMU, kvmish emulate, mitigations off: 1 run failed: hung / up" in page
    assert "emulate: 0.1" in page


def test_micro_benchmarks_follow() -> None:
    info = {"table": "T", "unit": "ns", "samples": {"row": {"kvmish": [1.0, 3.0, 2.0]}}}
    page = render(_results(), {"benchmarks": [{"extra_info": info}]})
    assert "| row | 2 (1 to 3) |" in page


def test_plot_has_a_mark_for_each_figure() -> None:
    drawing = plot(Results(_results()))
    assert drawing.count('r="4"') == 3 + 2  # the legend, then TCG and ours; not the one that failed


def test_unknown_rows_are_refused() -> None:
    done = subprocess.run(
        [Path(sys.prefix) / "bin" / "kvmish", "bench", "--rows", "nothing"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no row matches nothing" in done.stderr


def test_processor_time_of_threads_that_ended() -> None:
    worked: list[float] = []

    def work() -> None:
        while time.thread_time() < 0.02:
            hash("work")
        worked.append(time.thread_time())

    before = processor_seconds(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert processor_seconds(os.getpid()) - before >= worked[0]
