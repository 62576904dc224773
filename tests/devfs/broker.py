"""A broker of the test's own, and the processes that belong to it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KVMISH = Path(sys.prefix) / "bin" / "kvmish"
SECONDS = 20
MARK = "KVMISH_TEST_BROKER"  # inherited by the workers


def mounted(path: Path) -> bool:
    """Whether something is mounted there."""
    return f" {path} " in Path("/proc/self/mounts").read_text()


def ended(pid: int, seconds: float = SECONDS) -> bool:
    """Wait for any process to end."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)


class Broker:
    """`kvmish devfs mount`, in the foreground."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.file = directory / "kvm"
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [str(KVMISH), "devfs", "mount", str(directory), *options],
            env={**os.environ, MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()
        if "is there" not in self.said:
            self.said += self.process.communicate(timeout=SECONDS)[1]

    def processes(self, name: str) -> list[int]:
        """The workers' processes by name: kvmish-vm or kvmish-hand."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if (
                    entry / "comm"
                ).read_text().strip() == name and f"{MARK}={self.mark}".encode() in (
                    entry / "environ"
                ).read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def machine(self, client: int) -> int:
        """The process of the virtual machine that this client has."""
        for hand in self.processes("kvmish-hand"):
            fds = Path(f"/proc/{hand}/fdinfo")
            try:
                texts = [fd.read_text() for fd in fds.iterdir()]
            except FileNotFoundError:  # another machine's, which has just ended
                continue
            if any(f"Pid:\t{client}\n" in text for text in texts):
                children = Path(f"/proc/{hand}/task/{hand}/children").read_text().split()
                return int(children[0])
        raise AssertionError("no worker has this client")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; -> its exit status."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def leaves_nothing(self) -> None:
        """After its end and that of all clients."""
        assert self.process.wait(SECONDS) is not None
        for name in ("kvmish-vm", "kvmish-hand"):
            for pid in self.processes(name):
                assert ended(pid), f"{name} {pid} is still there"
        assert not mounted(self.directory)


@contextmanager
def broker(directory: Path, *options: str) -> Iterator[Broker]:
    """A broker, and that nothing of it is left."""
    one = Broker(directory, *options)
    try:
        assert "is there" in one.said, one.said
        yield one
    finally:
        if one.process.poll() is None:
            one.stop()
        subprocess.run(["umount", "-l", str(directory)], check=False, capture_output=True)
    one.leaves_nothing()
