"""A mounted device file for the tests of this directory, and the client compiled for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.devfs.broker import Broker, broker

CLIENT = Path(__file__).parent / "client.c"
HEADERS = ["-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"]
FLAGS = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-D_GNU_SOURCE"]
COMPILERS = {
    "dynamic": ["gcc"],
    "glibc": ["gcc", "-static"],
    "musl": ["musl-gcc", "-static", *HEADERS],
    "32-bit": ["gcc", "-m32", "-static"],
}


def can_mount() -> bool:
    """Root with the right to mount, /dev/fuse, and a kernel that passes mmap through (6.9)."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2] if part.isdigit())
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse") or release < (6, 9):
        return False
    status = Path("/proc/self/status").read_text()
    (effective,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff")]
    return bool(int(effective, 16) & 1 << 21)  # CAP_SYS_ADMIN


@pytest.fixture(scope="session")
def may_mount(need: Callable[[object, str], None]) -> None:
    """Skip, or fail in a full run, where no device file can be made."""
    need(can_mount(), "root, /dev/fuse and Linux 6.9 for a device file")


@pytest.fixture(scope="session")
def device(may_mount: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all tests that leave it alive."""
    with broker(tmp_path_factory.mktemp("devfs") / "dev") as one:
        yield one


def _runs(compiler: list[str], directory: Path) -> bool:
    """Whether it makes programs of this kind: gcc may be there without its 32-bit half."""
    if shutil.which(compiler[0]) is None:
        return False
    command = [*compiler, "-x", "c", "-o", str(directory / "try"), "-"]
    source = "#include <stdio.h>\nint main(void) { return 0; }\n"
    done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    return done.returncode == 0


def compiler_of(kind: str, directory: Path, need: Callable[[object, str], None]) -> list[str]:
    """Return the compiler for programs of this kind; a skip, or a failure, where there is none."""
    need(_runs(COMPILERS[kind], directory), f"a compiler for {kind} programs")
    return COMPILERS[kind]


@pytest.fixture(scope="session")
def compiled(
    tmp_path_factory: pytest.TempPathFactory, need: Callable[[object, str], None]
) -> Callable[[str], Path]:
    """compiled("musl"): tests/devfs/client.c as a program of this kind."""
    programs: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in programs:
            directory = tmp_path_factory.mktemp("client")
            directory.chmod(0o755)
            program = directory / "client"
            command = [*compiler_of(kind, directory, need), *FLAGS, "-o", str(program), str(CLIENT)]
            subprocess.run([*command, "-lpthread", "-lrt"], check=True)
            programs[kind] = program
        return programs[kind]

    return build


@pytest.fixture(scope="session")
def client(compiled: Callable[[str], Path]) -> Path:
    """The C program, compiled as any program is: nothing of ours in it."""
    return compiled("dynamic")
