"""KVMISH_PROFILE and KVMISH_PERF_MAP: where the guest was, and which host code is whose."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from vmmuser.profile import Symbols, table

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os
from tests.abi.guest import Guest

source = "mov ecx, 3000000; hot: add ebx, ecx; dec ecx; jnz hot; say ebx; done"
with Guest(source.replace(";", "\\n")) as guest:
    guest.run()
    print(hex(guest.labels["hot"]), os.getpid())
"""


def test_a_hot_loop(tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("translates for an x86-64 host")
    samples = tmp_path / "samples"
    wanted = {"KVMISH_ENGINE": "translate", "KVMISH_PERF_MAP": "1", "KVMISH_PROFILE": str(samples)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **wanted},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    hot, pid = done.stdout.split()
    perf_map = Path(f"/tmp/perf-{pid}.map")  # noqa: S108
    named = [line.split() for line in perf_map.read_text().splitlines()]
    perf_map.unlink()
    (code,) = [line for line in named if line[2] == f"guest:{int(hot, 16):x}"]
    assert int(code[0], 16) > 0
    assert int(code[1], 16) > 8
    told = table(samples.read_text(), Symbols([f"{hot} t hot_loop"])).splitlines()
    assert float(told[1].split()[0]) > 90
    assert told[1].endswith("hot_loop+0x0")


def test_symbols(tmp_path: Path) -> None:
    symbols = Symbols(["ffffffff81000000 T _text", "ffffffff81000040 t start", "0 A zero"])
    assert symbols.name(0xFFFFFFFF81000044) == "start+0x4"
    assert symbols.name(0xFFFFFFFF81000000) == "_text+0x0"
    assert symbols.name(0x1000) == ""
    assert Symbols().name(5) == ""


def test_table() -> None:
    told = table("ffffffff81000044 0 3\n401000 3 1\n", Symbols(["ffffffff81000040 t start"]))
    assert told.splitlines() == [
        "the hottest of 2 blocks, 4 samples of instructions:",
        "   75.0 %  ffffffff81000044  start+0x4",
        "   25.0 %  0000000000401000  user",
    ]
    assert table("", Symbols()) == "nothing was sampled: too little was executed"
