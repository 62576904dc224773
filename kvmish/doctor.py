"""What this machine offers, and which engine and door follow from it.

Each finding is a fact with a status; nothing here changes the machine, and the host's /dev/kvm is
opened only in a process of its own, with a time limit.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import asdict, dataclass
from pathlib import Path

from kvm_core import engines
from kvm_core.errors import BackendError, ConfigError
from kvmish.doors import LAUNCHER, PRELOAD
from vmmuser.assets import FLAVOURS, ROOT

PROBE_SECONDS = 10

# x86-64 psABI 1.0, section 3.1.1, in the names of /proc/cpuinfo.
LEVELS = {
    "x86-64-v2": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    status: "ok", "note" (worth knowing) or "missing" (kvmish needs it).
    """

    name: str
    status: str
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class Choice:
    """What kvmish uses here, and why."""

    what: str
    value: str
    why: str


@dataclass(frozen=True)
class Report:
    """All findings and what follows from them."""

    findings: tuple[Finding, ...]
    choices: tuple[Choice, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is missing that kvmish needs."""
        return all(finding.status != "missing" for finding in self.findings)

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps({"healthy": self.healthy, **asdict(self)}, indent=2)

    def to_text(self) -> str:
        """Return the report for a terminal."""
        width = max(len(finding.name) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.status:8}{finding.name:{width}}  {finding.detail}")
            if finding.advice:
                lines.append(f"{'':8}{'':{width}}  -> {finding.advice}")
        lines.append("")
        lines += [f"{choice.what}: {choice.value} ({choice.why})" for choice in self.choices]
        return "\n".join(lines)


def examine(kvm_path: str | None = "/dev/kvm") -> Report:
    """Look at everything. kvm_path None: leave the host's /dev/kvm alone."""
    kvm = _kvm(kvm_path)
    findings = [_processor(), *_levels(), kvm, _preload(), _seccomp(), _fuse(), _zydis()]
    findings += [_core(), *_programs(), *_assets()]
    return Report(tuple(findings), _choices(kvm))


def _cpuinfo() -> dict[str, str]:
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            facts.setdefault(name.strip(), value.strip())
    return facts


def _processor() -> Finding:
    facts = _cpuinfo()
    machine = platform.machine()
    detail = (
        f"{facts.get('vendor_id', 'unknown vendor')}, {facts.get('model name', machine)}, "
        f"{os.cpu_count()} processors"
    )
    if machine != "x86_64":
        return Finding("processor", "missing", detail, "kvmish runs on an x86-64 host only")
    flags = facts.get("flags", "").split()
    for flag, name in (("vmx", "VMX"), ("svm", "SVM")):
        if flag in flags:
            return Finding("processor", "ok", f"{detail}, {name}")
    return Finding("processor", "ok", f"{detail}, no VMX or SVM")


def _levels() -> list[Finding]:
    flags = set(_cpuinfo().get("flags", "").split())
    findings, lower_missing = [], False
    for level, names in LEVELS.items():
        lacking = sorted(set(names.split()) - flags)
        if lacking or lower_missing:
            lower_missing = True
            detail = f"no: lacks {', '.join(lacking)}" if lacking else "no: lacks a lower level"
            advice = "" if level == "x86-64-v4" else "guests are not offered what the host lacks"
            findings.append(Finding(level, "note", detail, advice))
        else:
            findings.append(Finding(level, "ok", "yes"))
    return findings


def _kvm(path: str | None) -> Finding:
    """Try the device in a process that can be killed; see kvmish.kvm_probe for the stages."""
    if path is None:
        return Finding("/dev/kvm", "note", "not examined")
    if not os.path.exists(path):
        return Finding(path, "note", "absent", "kvmish does not need it")
    command = [sys.executable, "-m", "kvmish.kvm_probe", os.path.abspath(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PROBE_SECONDS, cwd=ROOT
        )
        output, hung, errors = done.stdout, False, done.stderr
    except subprocess.TimeoutExpired as error:
        output, hung, errors = (error.stdout or b"").decode(), True, ""
    stages = [json.loads(line) for line in output.splitlines()]
    if not stages:
        reason = "no answer" if hung else (errors.strip().splitlines() or ["no answer"])[-1]
        return Finding(path, "note", f"unusable: {reason}")
    last = stages[-1]
    if hung or not last["ok"]:
        detail = "no answer" if hung else last["detail"]
        stage = f"after {last['stage']}" if hung else f"in stage {last['stage']}"
        advice = "a stock kernel cannot use it in practice; kvmish does not need it"
        if last["stage"] == "open" and not hung:
            advice = "kvmish does not need it"
            if not os.access(path, os.R_OK | os.W_OK):
                advice += "; to allow it: join the device's group"
        return Finding(path, "note", f"{stage}: {detail}", advice)
    return Finding(path, "ok", f"works for a stock kernel: {last['detail']}")


def _fuse() -> Finding:
    """What `kvmish devfs mount` needs; see devfs.mount."""
    name, what = "door fuse", "only needed for a device file made by kvmish"
    if not os.path.exists("/dev/fuse"):
        return Finding(name, "note", "no: /dev/fuse is absent", what)
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0:
        return Finding(name, "note", "no: must be run by root", what)
    if find_library("fuse") is None:
        return Finding(name, "note", "no: libfuse2 is missing", "apt-get install libfuse2")
    release = platform.release()
    if tuple(int(part) for part in re.findall(r"\d+", release)[:2]) < (6, 9):
        return Finding(name, "note", f"no: Linux {release} is older than 6.9", what)
    return Finding(name, "ok", "kvmish devfs mount can make a device file")


def _zydis() -> Finding:
    for directory in ("/usr/include", "/usr/local/include"):
        if Path(directory, "Zydis", "Zydis.h").is_file():
            return Finding("Zydis", "ok", f"headers in {directory}")
    return Finding("Zydis", "missing", "no headers", "apt-get install libzydis-dev, or make build")


def _core() -> Finding:
    if importlib.util.find_spec("kvm_core._kvm") is None:
        return Finding("core", "missing", "kvm_core._kvm is not built", "make build")
    return Finding("core", "ok", "kvm_core._kvm is built")


def _preload() -> Finding:
    if not PRELOAD.is_file():
        return Finding("door preload", "missing", f"no {PRELOAD}", "make core")
    return Finding("door preload", "ok", "for dynamically linked programs")


def _seccomp() -> Finding:
    """A small client behind that door, in a process of its own."""
    name, advice = "door seccomp", "only needed for programs that LD_PRELOAD does not reach"
    if not LAUNCHER.is_file():
        return Finding(name, "missing", f"no {LAUNCHER}", "make core")
    command = [str(LAUNCHER), str(LAUNCHER), "kvmish-probe"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Finding(name, "note", "no answer", advice)
    if done.returncode:
        said = (done.stdout or done.stderr).strip().splitlines() or ["it ended"]
        return Finding(name, "note", f"not all of it: {said[0].removeprefix('kvmish: ')}", advice)
    return Finding(name, "ok", "for programs of any kind: static, Go, 32-bit")


def _programs() -> list[Finding]:
    wanted = {
        "gcc": "apt-get install gcc",
        "qemu-system-x86_64": "a client for kvmish exec: apt-get install qemu-system-x86",
    }
    findings = []
    for program, advice in wanted.items():
        path = shutil.which(program)
        if path:
            findings.append(Finding(program, "ok", path))
        else:
            findings.append(Finding(program, "note", "not installed", advice))
    return findings


def _assets() -> list[Finding]:
    findings = []
    for flavour in FLAVOURS.values():
        name = f"{flavour.name} kernel"
        if flavour.ready():
            findings.append(Finding(name, "ok", flavour.kernel))
        elif flavour.name == "cloud":
            findings.append(Finding(name, "note", "not there yet", "make assets, or make boot"))
    return findings


def _engine() -> tuple[str, str]:
    try:
        name = engines.chosen()
    except BackendError:
        name = engines.ENGINES[0]
    except ConfigError as error:
        return "none", str(error)
    if os.environ.get(engines.VARIABLE):
        return name, f"as {engines.VARIABLE} says"
    if name == "emulate":
        return name, "the interpreter: this host is no x86-64, or lets nobody map executable memory"
    return name, "binary translation; --engine emulate is the interpreter"


def _choices(kvm: Finding) -> tuple[Choice, ...]:
    engine = Choice("engine", *_engine())
    if kvm.status == "ok":
        why = f"needs no device; the host's KVM works too: --kvm {kvm.name}"
    else:
        why = "the core runs in the VMM's own process and needs no device"
    return engine, Choice("door", "direct", why)


def run(output_format: str, kvm_path: str | None, echo: Callable[[str], None]) -> int:
    """Print the report; exit status 0, or 1 if something that kvmish needs is missing."""
    report = examine(kvm_path)
    echo(report.to_json() if output_format == "json" else report.to_text())
    return 0 if report.healthy else 1
