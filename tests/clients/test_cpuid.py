"""kvmish exec --cpuid: a program that asks the processor itself for SVM or VMX, as kvmtool does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.qemu import KVMISH

SOURCE = Path(__file__).with_name("cpuid.c")
FLAGS = ["-Wall", "-Wextra", "-Werror", "-std=gnu11", "-D_GNU_SOURCE"]


@pytest.mark.parametrize("how", [["-O2"], ["-O0", "-no-pie"]], ids=["pie", "no-pie"])
def test_a_program_that_looks_before_it_opens(tmp_path: Path, how: list[str]) -> None:
    program = tmp_path / "cpuid"
    subprocess.run(["gcc", *FLAGS, *how, "-o", program, SOURCE], check=True)
    command = [str(KVMISH), "exec", "--quiet", "--cpuid", "--", str(program), "/dev/kvm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("door", [[], ["--door", "preload"]], ids=["any", "preload"])
def test_a_static_program_is_told_so(tmp_path: Path, door: list[str]) -> None:
    """By a door that it has not got, it ran without its CPUID being answered."""
    program = tmp_path / "static"
    subprocess.run(["gcc", *FLAGS, "-static", "-o", program, SOURCE], check=True)
    command = [str(KVMISH), "exec", "--cpuid", *door, "--", str(program), "/dev/kvm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "does not get into" in done.stderr
    assert "a static program" in done.stderr


def test_it_is_for_one_door() -> None:
    command = [str(KVMISH), "exec", "--cpuid", "--door", "seccomp", "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--cpuid is for --door preload" in done.stderr


def test_a_door_that_does_not_reach_the_program(tmp_path: Path) -> None:
    """It ran with the host's /dev/kvm, and the line said no more than "as you say"."""
    program = tmp_path / "static"
    command = ["gcc", "-static", "-x", "c", "-o", str(program), "-"]
    subprocess.run(command, input="int main(void) { return 3; }", text=True, check=True)
    command = [str(KVMISH), "exec", "--door", "preload", "--", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3
    assert "door preload: as you say, but a static program" in done.stderr
