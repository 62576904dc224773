"""A mounted device file for the tests of this directory, and the client compiled for them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.devfs.broker import Broker, broker

HERE = Path(__file__).parent


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


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program, compiled as any program is: nothing of ours in it."""
    program = tmp_path_factory.mktemp("client") / "client"
    flags = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-D_GNU_SOURCE"]
    command = ["gcc", *flags, "-o", str(program), str(HERE / "client.c"), "-lpthread", "-lrt"]
    subprocess.run(command, check=True)
    return program
