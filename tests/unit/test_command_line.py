"""The kvmish command: what is refused in one line with status 2, and what doctor says."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from kvmish import doctor, doors

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
        ("exec", "--door", "window", "--", "true"),
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


@pytest.mark.parametrize(
    ("name", "why"),
    [("no-such", "no such program on PATH"), ("/no/such", "no such program\n"),
     ("/proc", "is a directory"), ("/proc/self/status", "is not executable")],
)  # fmt: skip
def test_what_exec_cannot_start(name: str, why: str) -> None:
    assert f"kvmish: {name}: {why}" in _kvmish("exec", "--", name).stderr


def test_usage_errors_name_the_command_that_explains() -> None:
    assert _kvmish("exec").stderr.endswith("Try kvmish exec --help.\n")
    assert _kvmish("devfs", "mount", "--x").stderr.endswith("Try kvmish devfs mount --help.\n")


def test_a_path_in_a_directory_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    done = _kvmish("devfs", "umount", "there")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there: this directory is gone" in done.stderr


def test_processor_models_are_listed() -> None:
    done = _kvmish("boot", "--cpu", "list")
    assert (done.returncode, done.stdout.split()[0]) == (0, "host")


@pytest.mark.parametrize("arguments", [("doctor", "--no-kvm"), ("boot", "--help")], ids=" ".join)
def test_output_that_cannot_be_written(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [KVMISH, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "kvmish: write error: No space left on device\n")
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as broken:
        done = subprocess.run(
            [KVMISH, *arguments], stdout=broken, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_no_command_shows_help() -> None:
    done = _kvmish()
    assert done.returncode == 2
    assert "boot" in done.stderr
    assert "doctor" in done.stderr


def test_exec_runs_the_program_with_the_door_preloaded() -> None:
    done = _kvmish("exec", "--", "sh", "-c", "echo $LD_PRELOAD; exit 7")
    assert done.returncode == 7, done
    assert str(doors.PRELOAD) in done.stdout
    assert done.stderr == "kvmish: door preload: a dynamically linked program\n"


def test_exec_serves_a_static_program(tmp_path: Path) -> None:
    program = tmp_path / "static"
    source = """
        #include <fcntl.h>
        #include <sys/ioctl.h>
        int main(void) { return ioctl(open("/dev/kvm", O_RDWR), 0xae00, 0); }
    """
    compiler = ["gcc", "-static", "-x", "c", "-o", str(program), "-"]
    subprocess.run(compiler, input=source, text=True, check=True)
    done = _kvmish("exec", "--quiet", "--", str(program))
    assert (done.returncode, done.stderr) == (12, "")


def _elf(kind: int, *segments: tuple[int, bytes]) -> bytes:
    """The start of an ELF file: 1, 32-bit, or 2; segments by type and content."""
    table, at = b"", 64 + 56 * len(segments)
    for number, content in segments:
        table += struct.pack("<IIQQQQQQ", number, 4, at, 0, 0, len(content), len(content), 1)
        at += len(content)
    head = struct.pack("<4sB27xQ14xHH6x", b"\x7fELF", kind, 64, 56, len(segments))
    return head + table + b"".join(content for _, content in segments)


GLIBC = (3, b"/lib64/ld-linux-x86-64.so.2\0")
GO = (4, struct.pack("<III", 4, 4, 4) + b"Go\0\0abcd")


@pytest.mark.parametrize(
    ("content", "mode", "door", "why"),
    [
        (_elf(2, GLIBC), 0o755, "preload", "dynamically linked"),
        (_elf(2), 0o755, "seccomp", "static"),
        (_elf(1, GLIBC), 0o755, "seccomp", "32-bit"),
        (_elf(2, (3, b"/lib/ld-musl-x86_64.so.1\0")), 0o755, "seccomp", "ld-musl"),
        (_elf(2, GLIBC, GO), 0o755, "seccomp", "Go"),
        (_elf(2, GLIBC), 0o4755, "seccomp", "set-user-ID"),
        (b"echo hello\n", 0o755, "preload", "script"),
        (b"#! /bin/sh -e\n", 0o755, "preload", "dynamically linked"),
    ],
)
def test_the_door_follows_from_the_program(
    tmp_path: Path, content: bytes, mode: int, door: str, why: str
) -> None:
    program = tmp_path / "program"
    program.write_bytes(content)
    program.chmod(mode)
    choice = doors.choose(str(program))
    assert choice.door == door
    assert why in choice.why


def test_a_script_is_what_its_interpreter_is(tmp_path: Path) -> None:
    static = tmp_path / "static"
    static.write_bytes(_elf(2))
    script = tmp_path / "script"
    script.write_text(f"#!{static} -x\n")
    assert doors.choose(str(script)).door == "seccomp"


def test_doctor_report_is_json() -> None:
    done = _kvmish("doctor", "--no-kvm", "--format", "json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["healthy"] else 1)
    names = {finding["name"] for finding in report["findings"]}
    assert {"processor", "x86-64-v2", "x86-64-v3", "/dev/kvm", "Zydis"} <= names
    assert {"door preload", "door seccomp", "door fuse"} <= names
    assert {choice["what"] for choice in report["choices"]} == {"engine", "door"}


@pytest.mark.parametrize(
    ("path", "detail"),
    [("/nonexistent/kvm", "absent"), ("null", "in stage open: Inappropriate ioctl")],
)
def test_doctor_on_devices_that_are_no_kvm(
    monkeypatch: pytest.MonkeyPatch, path: str, detail: str
) -> None:
    monkeypatch.chdir("/dev")
    finding = doctor._kvm(path)
    assert finding.status == "note"
    assert detail in finding.detail
    assert "group" not in finding.advice


def test_doctor_is_unhealthy_when_something_is_missing() -> None:
    missing = doctor.Finding("core", "missing", "not built", "make build")
    report = doctor.Report((missing,), ())
    assert not report.healthy
    assert "-> make build" in report.to_text()
