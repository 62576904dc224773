"""Which door `kvmish exec` lends a program, and how it goes through: preload, seccomp or fuse.

What a program is (static, 32-bit, Go, ...) is read from its file; a script is its interpreter.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from kvm_core import engines
from kvm_core.errors import BackendError, ConfigError
from vmmuser.assets import ROOT
from vmmuser.status import say

PRELOAD = Path(ROOT, "build", "libkvmish-preload.so")
LAUNCHER = Path(ROOT, "build", "kvmish-launch")
DOORS = ("preload", "seccomp", "fuse")
MOUNTED = Path("/run/kvmish")  # where `kvmish devfs mount` puts the device file

_LOADER = b"ld-linux-x86-64.so.2"  # glibc's, for which the preload library is built
_PT_INTERP, _PT_NOTE = 3, 4
_SCRIPTS_DEEP = 4


@dataclass(frozen=True)
class Choice:
    """A door and why it is the one."""

    door: str
    why: str


def _segments(head: bytes) -> list[tuple[int, bytes]]:
    """Types and contents of a 64-bit ELF file's program headers, as far as they are in head."""
    (table,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    found = []
    for index in range(count):
        at = table + index * size
        if at + 40 > len(head):
            break
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", head, at)
        found.append((kind, head[offset : offset + length]))
    return found


def _of_elf(head: bytes) -> Choice:
    if head[4] == 1:
        return Choice("seccomp", "a 32-bit program")
    segments = _segments(head)
    loaders = [content.rstrip(b"\0") for kind, content in segments if kind == _PT_INTERP]
    if not loaders:
        return Choice("seccomp", "a static program: LD_PRELOAD does not reach it")
    if not loaders[0].endswith(_LOADER):
        return Choice("seccomp", f"its loader is {os.fsdecode(loaders[0])}, not glibc's")
    if any(kind == _PT_NOTE and content[12:15] == b"Go\0" for kind, content in segments):
        return Choice("seccomp", "a Go program: it makes system calls without libc")
    return Choice("preload", "a dynamically linked program")


def choose(program: str) -> Choice:
    """Return the door for the program at this path."""
    path = Path(os.path.realpath(program))
    for _ in range(_SCRIPTS_DEEP):
        try:
            mode = path.stat().st_mode
            with path.open("rb") as file:
                head = file.read(1 << 16)
        except OSError:  # it may be run but not be read
            return Choice("seccomp", "what it is cannot be read")
        if mode & (stat.S_ISUID | stat.S_ISGID):
            return Choice("seccomp", "set-user-ID or set-group-ID; it runs without that right")
        if head[:4] == b"\x7fELF" and len(head) >= 64:
            return _of_elf(head)
        words = head[2:].split(b"\n", 1)[0].split() if head[:2] == b"#!" else []
        if not words:
            break
        path = Path(os.fsdecode(words[0]))
    return Choice("preload", "a script")


def _exec(program: str, command: tuple[str, ...], environment: dict[str, str]) -> None:
    os.execve(program, command, environment)  # noqa: S606 - replacing ourselves is the command


def _built(file: Path) -> str:
    if not file.is_file():
        raise BackendError(f"{file} is missing: run make core")
    return str(file)


def enter(
    door: str, program: str, command: tuple[str, ...], mounted: Path, cpuid: bool = False
) -> None:
    """Become the program, behind the door. mounted: the device file's directory.

    :raise BackendError: if the door cannot be had. :raise ConfigError: if it cannot be started.
    """
    environment = dict(os.environ)
    if cpuid:
        environment["KVMISH_CPUID"] = "1"
    try:
        if door == "preload":
            library, before = _built(PRELOAD), os.environ.get("LD_PRELOAD")
            environment["LD_PRELOAD"] = f"{library}:{before}" if before else library
            _exec(program, command, environment)
        elif door == "seccomp":
            launcher = _built(LAUNCHER)
            _exec(launcher, (launcher, os.path.abspath(program), *command), environment)
        else:
            import_module("devfs.place").put_in_place(mounted.absolute())
            _exec(program, command, environment)
    except OSError as error:
        raise ConfigError(f"{program}: {error.strerror}") from None


def find(name: str) -> str:
    """Return the path of a program. :raise ConfigError: if there is none."""
    program = shutil.which(name)
    if program is not None:
        return program
    if os.path.isdir(name):
        raise ConfigError(f"{name}: is a directory; name a program")
    if "/" in name and os.path.exists(name):
        raise ConfigError(f"{name}: is not executable; chmod +x makes it so")
    raise ConfigError(f"{name}: no such program{'' if '/' in name else ' on PATH'}")


def _check_cpuid(program: str, choice: Choice) -> None:
    """Whether the library that answers CPUID gets into the program.

    :raise ConfigError: if it does not.
    """
    its = choose(program)
    if its.door != "preload":
        raise ConfigError(
            f"--cpuid: the library that answers it does not get into {program}: {its.why}. "
            "Of kvmtool take lkvm, not lkvm-static"
        )
    if choice.door != "preload":
        raise ConfigError(f"--cpuid is for --door preload; this is {choice.door}: {choice.why}")


def _as_told(door: str, program: str) -> Choice:
    """Return the door that the user names, with what they may not expect of it."""
    its = choose(program)
    if door != "preload" or its.door == "preload":
        return Choice(door, "as you say")
    beyond = "what this program itself opens is the host's /dev/kvm; what it starts gets the door"
    return Choice(door, f"as you say, but {its.why}: {beyond}")


def run(
    command: tuple[str, ...],
    door: str | None = None,
    quiet: bool = False,
    mounted: Path = MOUNTED,
    cpuid: bool = False,
) -> int:
    """Run a command behind a door; returns 2, having said why, only if that cannot be."""
    try:
        engines.check()
        program = find(command[0])
        choice = _as_told(door, program) if door else choose(program)
        if cpuid:
            _check_cpuid(program, choice)
        if not quiet:
            answered = "; its CPUID is answered, with SVM or VMX" if cpuid else ""
            say(f"door {choice.door}: {choice.why}{answered}")
        enter(choice.door, program, command, mounted, cpuid)
    except (BackendError, ConfigError) as error:
        say(str(error))
    return 2
