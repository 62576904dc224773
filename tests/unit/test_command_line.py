"""The kvmish command: what is refused in one line with status 2, and what doctor says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvmish import doctor

KVMISH = Path(sys.prefix) / "bin" / "kvmish"


def _kvmish(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(KVMISH), *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("--frobnicate",),
        ("doctor", "--frobnicate"),
        ("doctor", "--format", "yaml"),
        ("exec",),
        ("exec", "--", "no-such-program-anywhere"),
        ("bench", "--frobnicate"),
        ("bench", "--rounds", "0"),
        ("boot", "--frobnicate"),
    ],
    ids=" ".join,
)
def test_refusals_are_one_line_and_status_2(arguments: tuple[str, ...]) -> None:
    done = _kvmish(*arguments)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("kvmish: ")
    assert done.stderr.count("\n") == 1


def test_no_command_shows_help() -> None:
    done = _kvmish()
    assert done.returncode == 2
    assert "boot" in done.stderr
    assert "doctor" in done.stderr


def test_exec_refuses_a_static_program(tmp_path: Path) -> None:
    program = tmp_path / "static"
    compiler = ["gcc", "-static", "-x", "c", "-o", str(program), "-"]
    subprocess.run(compiler, input="int main(void) { return 0; }", text=True, check=True)
    done = _kvmish("exec", "--", str(program))
    assert done.returncode == 2
    assert "static" in done.stderr


def test_exec_runs_the_program_with_the_door_preloaded() -> None:
    done = _kvmish("exec", "--", "sh", "-c", "echo $LD_PRELOAD; exit 7")
    assert done.returncode == 7, done
    assert str(doctor.PRELOAD) in done.stdout


def test_doctor_report_is_json() -> None:
    done = _kvmish("doctor", "--no-kvm", "--format", "json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["healthy"] else 1)
    names = {finding["name"] for finding in report["findings"]}
    assert {"processor", "x86-64-v2", "x86-64-v3", "/dev/kvm", "devfs", "Zydis"} <= names
    assert {choice["what"] for choice in report["choices"]} == {"engine", "door"}


@pytest.mark.parametrize(
    ("path", "detail"),
    [("/nonexistent/kvm", "absent"), ("/dev/null", "in stage open")],
)
def test_doctor_on_devices_that_are_no_kvm(path: str, detail: str) -> None:
    finding = doctor._kvm(path)
    assert finding.status == "note"
    assert detail in finding.detail


def test_doctor_is_unhealthy_when_something_is_missing() -> None:
    missing = doctor.Finding("core", "missing", "not built", "make build")
    report = doctor.Report((missing,), ())
    assert not report.healthy
    assert "-> make build" in report.to_text()
