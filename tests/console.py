"""Runs a machine whose console is a pipe, and stamps each line with the host's clock."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Transcript:
    """What a machine printed, and when. Times are seconds since the process was spawned."""

    command: list[str]
    lines: list[tuple[float, str]] = field(default_factory=list)
    typed: list[float] = field(default_factory=list)  # when each answer was
    seconds: float = 0.0
    status: int | None = None  # None: it had to be killed
    errors: str = ""

    @property
    def text(self) -> str:
        """The whole console."""
        return "\n".join(line for _, line in self.lines)

    def at(self, mark: str) -> float:
        """Return when the first line with the mark came. :raise AssertionError: it never did."""
        for seconds, line in self.lines:
            if mark in line:
                return seconds
        raise AssertionError(f"no {mark!r} on the console; {self.tail()}")

    def has(self, mark: str) -> bool:
        """Whether a line has the mark."""
        return any(mark in line for _, line in self.lines)

    def values(self, mark: str) -> list[str]:
        """Return what follows the mark on each line that has it."""
        return [line.partition(mark)[2].strip() for _, line in self.lines if mark in line]

    def tail(self, count: int = 15) -> str:
        """Return the end of the console and of the errors, for a failure's message."""
        last = "\n".join(line for _, line in self.lines[-count:])
        return f"status {self.status} after {self.seconds:.1f} s; it ended:\n{last}\n{self.errors}"


def run(
    command: Sequence[str | Path],
    timeout: float,
    environment: Mapping[str, str] | None = None,
    answers: Sequence[tuple[str, str]] = (),
    watch: Callable[[int, str], None] | None = None,
) -> Transcript:
    """Run until the process ends, or kill it and its group after timeout seconds.

    answers: (mark, text) in order: when the mark appears in the output, type the text.
    watch: called with the process's id and each line, while the machine runs.
    """
    transcript = Transcript([str(word) for word in command])
    start = time.monotonic()
    process = subprocess.Popen(
        transcript.command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    waiting = list(answers)
    partial, errors, searched = b"", bytearray(), ""
    with selectors.DefaultSelector() as selector, process:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        try:
            while selector.get_map():
                left = start + timeout - time.monotonic()
                if left <= 0:
                    break
                for key, _ in selector.select(left):
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stderr:
                        errors += data
                    else:
                        now = time.monotonic() - start
                        *whole, partial = (partial + data).split(b"\n")
                        for line in whole:
                            text = line.decode(errors="replace").rstrip("\r")
                            transcript.lines.append((now, text))
                            if watch:
                                watch(process.pid, text)
                        searched += data.decode(errors="replace")
                        while waiting and waiting[0][0] in searched:
                            mark, text = waiting.pop(0)
                            searched = searched.partition(mark)[2]
                            transcript.typed.append(time.monotonic() - start)
                            os.write(process.stdin.fileno(), text.encode())
            transcript.status = process.wait(max(0.1, start + timeout - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            transcript.seconds = time.monotonic() - start
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                transcript.status = None
    if partial:
        transcript.lines.append((transcript.seconds, partial.decode(errors="replace")))
    transcript.errors = errors.decode(errors="replace")
    return transcript
