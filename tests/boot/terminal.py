"""A machine on a pseudo-terminal, for tests of the console and of what a user types."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOOR = os.environ.get("KVMISH_TEST_DOOR", "direct")
LIMIT_S = 30
RUN = "import sys; from kvmish.start import main; sys.exit(main())"
BOOT = (sys.executable, "-c", RUN, "boot", "--kvm", DOOR)


class Terminal:
    """A program on a pseudo-terminal, as its session's leader; by default `kvmish boot`."""

    def __init__(self, *options: str | Path, command: Sequence[str] = BOOT) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.text, self.seen = b"", 0
        self.process = subprocess.Popen(
            [*command, *map(str, options)],
            cwd=ROOT,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )

    def expect(self, text: bytes, limit_s: float = LIMIT_S) -> None:
        """Read until the text comes, behind what was expected before."""
        deadline = time.monotonic() + limit_s
        while self.text.find(text, self.seen) < 0:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} at the end of {self.text[-3000:]!r}"
            if select.select([self.master], [], [], min(left, 1))[0]:
                self.text += os.read(self.master, 4096)
            elif self.process.poll() is not None:
                deadline = 0  # nobody is left to write it
        self.seen = self.text.find(text, self.seen) + len(text)

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the end, reading what comes."""
        deadline = time.monotonic() + limit_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text[-3000:]
            if select.select([self.master], [], [], 0.05)[0]:
                self.text += os.read(self.master, 4096)
        while select.select([self.master], [], [], 0)[0]:
            self.text += os.read(self.master, 4096)
        return self.process.returncode

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO)

    @property
    def is_restored(self) -> bool:
        """Also once the guard has noticed a sudden death."""
        deadline = time.monotonic() + 5
        while termios.tcgetattr(self.slave) != self.before:
            if time.monotonic() > deadline:
                return False
            os.sched_yield()
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)
