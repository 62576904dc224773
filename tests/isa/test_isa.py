"""User-level instructions against the host processor: every row of the table, random cases."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NO_LDT = 77  # exit status: the host's kernel gives programs none
COVERAGE = ROOT / "build" / "isa"  # the tables of the last run


def run(program: Path, encoding_cases: int, form_cases: int, mode: int, timeout_s: int) -> str:
    """Compare; the table of rows, whose first line has the seed."""
    arguments = [str(program), "kvm_core/isa", str(encoding_cases), str(form_cases)]
    arguments += [str(time.time_ns()), str(mode)]
    result = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    COVERAGE.mkdir(parents=True, exist_ok=True)
    (COVERAGE / f"{program.name}-{mode}.txt").write_text(result.stdout)
    if result.returncode == NO_LDT:
        pytest.skip(result.stdout.splitlines()[-1])
    if result.returncode:
        usual = (" forms, at least ", " not compared: ")
        lines = result.stdout.splitlines()
        told = [line for line in lines if not any(part in line for part in usual)]
        pytest.fail("\n".join([" ".join(arguments), *told, result.stderr]))
    return result.stdout


@pytest.fixture(scope="module")
def harness(c_program: Callable[..., Path]) -> Path:
    """The test program, which runs each case on the interpreter and on the processor itself."""
    if platform.machine() != "x86_64":
        pytest.skip("compares with an x86-64 host")
    return c_program("isa/harness.c")


MODES = [64, 32, 33, 16]  # of the code; 33: 32 bits with the segments of an LDT, like 16


@pytest.mark.parametrize(
    ("engine", "mode"),
    [*(("emulate", mode) for mode in MODES), ("translate", 64), ("translate", 32)],
)
@pytest.mark.timeout(1800)
def test_against_the_host(
    harness: Path,
    engine: str,
    mode: int,
    full: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every operand form and size of every row: at least 100 cases, in a full run 1,000 (and then
    more than ten millions together).
    """
    monkeypatch.setenv("KVMISH_ENGINE", engine)
    table = run(harness, 200 if full else 20, 1000 if full else 100, mode, 1700 if full else 200)
    lines = table.splitlines()
    with capsys.disabled():
        print(f"\n{table}" if full else f"\n{lines[0]}\n{lines[-1]}")


def test_portable_arithmetic(c_program: Callable[..., Path]) -> None:
    """The arithmetic in C (cpu/portable_alu.h), which stands in where there is no x86-64 host."""
    if platform.machine() != "x86_64":
        pytest.skip("compares with an x86-64 host")
    run(c_program("isa/harness-portable.c"), 4, 200, 64, 120)


@pytest.mark.parametrize("asan", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize("engine", ["emulate", "translate"])
@pytest.mark.parametrize("name", ["conditions", "vendors"])
def test_conditions_and_vendors(
    c_program: Callable[..., Path],
    name: str,
    engine: str,
    asan: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """#UD, #NM by CR0, CR4 and XCR0; operands in a device; XSAVE images; AMD's and Intel's ways."""
    monkeypatch.setenv("KVMISH_ENGINE", engine)
    program = c_program(f"isa/{name}.c", asan=asan)
    result = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("engine", ["emulate", "translate"])
@pytest.mark.parametrize("mode", [64, 32])
def test_the_other_vendor(
    harness: Path, engine: str, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the host executes for a guest of the other vendor is nothing that it would fault on."""
    monkeypatch.setenv("KVMISH_ENGINE", engine)
    monkeypatch.setenv("OTHER_VENDOR", "1")
    arguments = [harness, "kvm_core/isa", "4", "20", str(time.time_ns()), str(mode)]
    result = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, f"{arguments[-2]}\n{result.stdout[-1000:]}{result.stderr}"


@pytest.mark.parametrize("asan", [False, pytest.param(True, marks=pytest.mark.full)])
def test_known_forms(c_program: Callable[..., Path], full: bool, asan: bool) -> None:
    """An instruction that is found by its form is what decoding it alone gives."""
    arguments = ["400000" if full else "20000", str(time.time_ns())]
    program = c_program("isa/known.c", asan=asan)
    result = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, f"{arguments}\n{result.stdout}{result.stderr}"


@pytest.mark.full
@pytest.mark.parametrize("mode", MODES)
def test_under_asan(
    c_program: Callable[..., Path], mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operand form and size a few times, under ASan and UBSan."""
    options = "detect_leaks=0:handle_segv=0:allow_user_segv_handler=1:use_sigaltstack=0"
    monkeypatch.setenv("ASAN_OPTIONS", options)
    run(c_program("isa/harness.c", asan=True), 2, 10, mode, 240)
